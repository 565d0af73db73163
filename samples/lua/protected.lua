-- pcall and xpcall, with and without errors, nested.
--: seen outer > inner > spin
--: seen guarded > failing > spin
--: seen guarded > failing > handler > spin
--: seen caught > failing > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function inner(n)
    local sum = spin(n) --> spin
    return sum
end

local function failing(n)
    local sum = spin(n) --> spin
    error({ sum = sum }) --> handler through error ...
end

local function handler(reason)
    local sum = spin(300) --> spin
    return reason.sum + sum
end

local function outer(n)
    local ok, sum = pcall(inner, n) --> inner through pcall
    return ok and sum
end

local function guarded(n)
    local ok, sum = xpcall(failing, handler, n) --> failing through xpcall
    return not ok and sum
end

local function caught(n)
    local ok, reason = pcall(failing, n) --> failing through pcall
    return not ok and reason.sum
end

io.write("ready\n")
io.flush()
while true do
    pcall(outer, 500) --> outer through pcall
    local sum = guarded(200) --> guarded
    sum = sum + caught(300) --> caught
end
