-- What nginx.conf beside this runs in its phases.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function access()
    local sum = spin(3000) --> spin
    return sum
end

local function ascending(a, b)
    spin(20) --> spin
    return a < b
end

local function sorted()
    local numbers = {}
    for i = 1, 30 do
        numbers[i] = i * 7919 % 41
    end
    table.sort(numbers, ascending) --> ascending through table.sort ...
    return numbers
end

-- The body of a coroutine: lua-nginx-module resumes it from C, its creator is on no stack.
local function produce(n)
    spin(n) --> spin
    coroutine.yield(1)
    spin(n) --> spin
    return 2
end

local function content()
    local thread = coroutine.create(produce)
    local ok, value = coroutine.resume(thread, 2000)
    ok, value = coroutine.resume(thread)
    ok = pcall(sorted) --> sorted through pcall
    ngx.say(value)
    return ok
end

local function log()
    local sum = spin(1000) --> spin
    return sum
end

return { access = access, content = content, log = log }
