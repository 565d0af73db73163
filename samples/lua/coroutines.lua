-- Coroutines: resumed, wrapped, and one inside the other.
--: seen resumer > produce > spin
--: seen wrapper > generate > spin
--: seen nested > middle > innermost > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function produce(limit)
    for i = 1, limit do
        spin(80) --> spin
        coroutine.yield(i)
    end
end

local function resumer()
    local thread = coroutine.create(produce)
    local ok, value = coroutine.resume(thread, 10) --> produce through coroutine.resume
    while coroutine.status(thread) ~= "dead" do
        ok, value = coroutine.resume(thread) --> produce through coroutine.resume
    end
    return ok and value
end

local function generate()
    for i = 1, 10 do
        spin(80) --> spin
        coroutine.yield(i)
    end
end

local function wrapper()
    local sum = 0
    for value in coroutine.wrap(generate) do --> generate through *
        sum = sum + value
    end
    return sum
end

local function innermost(n)
    local sum = spin(n) --> spin
    coroutine.yield(sum)
    return sum
end

local function middle(n)
    local thread = coroutine.create(innermost)
    local ok, sum = coroutine.resume(thread, n) --> innermost through coroutine.resume
    ok, sum = coroutine.resume(thread) --> innermost through coroutine.resume
    return sum
end

local function nested()
    local thread = coroutine.create(middle)
    local ok, sum = coroutine.resume(thread, 400) --> middle through coroutine.resume
    return ok and sum
end

io.write("ready\n")
io.flush()
while true do
    resumer() --> resumer
    wrapper() --> wrapper
    nested() --> nested
end
