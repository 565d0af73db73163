-- pcall and xpcall, with and without errors, nested.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function inner(n)
    local sum = spin(n)
    return sum
end

local function failing(n)
    local sum = spin(n)
    error({ sum = sum })
end

local function handler(reason)
    local sum = spin(300)
    return reason.sum + sum
end

local function outer(n)
    local ok, sum = pcall(inner, n)
    return ok and sum
end

local function guarded(n)
    local ok, sum = xpcall(failing, handler, n)
    return not ok and sum
end

local function caught(n)
    local ok, reason = pcall(failing, n)
    return not ok and reason.sum
end

io.write("ready\n")
io.flush()
while true do
    pcall(outer, 500)
    local sum = guarded(200)
    sum = sum + caught(300)
end
