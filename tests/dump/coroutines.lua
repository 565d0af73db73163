-- Coroutines that wait in known lines, with known local variables. Then a coroutine in a coroutine waits for input, or with the
-- argument `spin` calculates without an end. `@` marks the lines that are asked for by name.
local function inner(text, number)
    local list = { 1, 2, 3, key = true }
    local integer, nothing, yes = -7, nil, true
    coroutine.yield(text) -- @inner
    return list, number, integer, nothing, yes
end
local function outer(number, ...)
    local ok, result = pcall(inner, "it's\n" .. number, number * 1.5) -- @outer
    return ok, result, ...
end

local kept = {}
local function start(f, ...) -- @start
    local thread = coroutine.create(f)
    coroutine.resume(thread, ...)
    kept[#kept + 1] = thread
    return thread
end

for number = 1, 3 do
    start(outer, number, "more", nil, start)
end

local wrapped = coroutine.wrap(function()
    for step = 1, 2 do
        coroutine.yield(step) -- @wrapped
    end
end)
wrapped()

local object = setmetatable({}, { __index = function(self, key)
    coroutine.yield(self, key) -- @index
end })
start(function()
    local missing = object.missing -- @metamethod
    return missing
end)

local function iterate()
    coroutine.yield() -- @iterate
end
start(function()
    for value in iterate do -- @loop
        print(value)
    end
end)

local function descend(depth)
    if depth == 0 then
        coroutine.yield() -- @bottom
        return 0
    end
    return 1 + descend(depth - 1) -- @descend
end
start(descend, 5000)

start(function()
    local reason = "known"
    error(reason) -- @failed
end)
start(function()
    return 1
end)
kept[#kept + 1] = coroutine.create(outer) -- not started

local function spin()
    local count = 0
    while true do count = (count + 1) % 1000 end -- @spin
end
local nested = coroutine.wrap(function()
    local depth = 1
    local thread = coroutine.create(function(mode)
        io.write("ready\n")
        io.flush()
        if mode == "spin" then
            spin() -- @spins
        end
        io.read("*l") -- @read
        return depth
    end)
    coroutine.resume(thread, arg and arg[1]) -- @resume
end)
nested() -- @main
return wrapped, object
