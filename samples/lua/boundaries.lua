-- For a program that offers host.call, host.pcall, host.cpcall and host.resume: Lua calls C, which calls Lua through
-- lua_call, lua_pcall, lua_cpcall and lua_resume, also through several of them. A C function that Lua calls has one frame, under its
-- name in Lua. lua_call and lua_resume end in a jump into the VM, so that they have no frame while Lua runs; the others have one.
--: needs host
--: seen all > called > spin
--: seen all > protected > spin
--: seen all > c_protected > spin
--: seen all > resumed > spin
--: seen all > first > second > third > resumed > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function called(n)
    local sum = spin(n) --> spin
    return sum
end

local function protected(n)
    local sum = spin(n) --> spin
    return sum
end

local function c_protected(n)
    local sum = spin(n) --> spin
    return sum
end

local function resumed(n)
    local sum = spin(n) --> spin
    coroutine.yield(sum)
    sum = sum + spin(n) --> spin
    return sum
end

local function third(n)
    local sum = host.resume(resumed, n) --> resumed through host.resume
    return sum
end

local function second(n)
    local sum = host.pcall(third, n) --> third through host.pcall &lua_pcall
    return sum
end

local function first(n)
    local sum = host.call(second, n) --> second through host.call
    return sum
end

local function all()
    local sum = host.call(called, 300) --> called through host.call
    sum = sum + host.pcall(protected, 300) --> protected through host.pcall &lua_pcall
    sum = sum + host.cpcall(c_protected, 300) --> c_protected through host.cpcall &lua_cpcall &in_cpcall
    sum = sum + host.resume(resumed, 300) --> resumed through host.resume
    sum = sum + first(300) --> first
    return sum
end

io.write("ready\n")
io.flush()
while true do
    all() --> all
end
