-- Coroutines that are made, resumed, ended and collected all the time. Behind `-->` is what a line calls.
local yield, random = coroutine.yield, math.random
local function first()
    yield() --> coroutine.yield
end
local function second()
    yield() --> coroutine.yield
    yield() --> coroutine.yield
end
local function left(value)
    first() --> first
    return value
end
local function right(value)
    second() --> second
    return value
end
local function body(kind)
    repeat
        if kind == 1 then
            left(kind) --> left
        else
            right(kind) --> right
            left(kind) --> left
        end
        local ends = random(10) == 1 --> math.random
    until ends
end
local function renew(threads, index)
    if coroutine.status(threads[index]) == "dead" then --> coroutine.status
        threads[index] = coroutine.create(body) --> coroutine.create
    end
    coroutine.resume(threads[index], index % 2) --> coroutine.resume
end

local threads = {}
for index = 1, 100 do
    threads[index] = coroutine.create(body) --> coroutine.create
end
io.write("ready\n") --> io.write
io.flush() --> io.flush
while true do
    for index = 1, #threads do
        renew(threads, index) --> renew
    end
end
