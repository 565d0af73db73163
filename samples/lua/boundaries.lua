-- For a program that offers host.call, host.pcall, host.cpcall and host.resume: Lua calls C, which calls Lua through
-- lua_call, lua_pcall, lua_cpcall and lua_resume, also through several of them.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function called(n)
    local sum = spin(n)
    return sum
end

local function protected(n)
    local sum = spin(n)
    return sum
end

local function c_protected(n)
    local sum = spin(n)
    return sum
end

local function resumed(n)
    local sum = spin(n)
    coroutine.yield(sum)
    sum = sum + spin(n)
    return sum
end

local function third(n)
    local sum = host.resume(resumed, n)
    return sum
end

local function second(n)
    local sum = host.pcall(third, n)
    return sum
end

local function first(n)
    local sum = host.call(second, n)
    return sum
end

local function all()
    local sum = host.call(called, 300)
    sum = sum + host.pcall(protected, 300)
    sum = sum + host.cpcall(c_protected, 300)
    sum = sum + host.resume(resumed, 300)
    sum = sum + first(300)
    return sum
end

io.write("ready\n")
io.flush()
while true do
    all()
end
