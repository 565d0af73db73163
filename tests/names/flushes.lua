-- The same loop, compiled with one function in it, flushed, and compiled with another in the same place: `only_a` is above
-- `run` exactly when `work_a` is below it, and `only_b` when `work_b` is.
local hits = 0

local function work_a(i)
    if i % 7 == 0 then
        hits = hits + 1
    end
    return hits
end

local function work_b(i)
    if i % 5 == 0 then
        hits = hits + 2
    end
    return hits
end

local function run(work)
    local sum = 0
    for i = 1, 20000 do
        sum = sum + work(i)
    end
    return sum
end

local function only_a()
    local sum = run(work_a)
    return sum
end

local function only_b()
    local sum = run(work_b)
    return sum
end
-- They shall not become part of the trace.
jit.off(only_a)
jit.off(only_b)

local function renew(only)
    jit.flush()
    collectgarbage()
    local stop = os.clock() + 0.02
    repeat
        only()
    until os.clock() > stop
end

io.write("ready\n")
io.flush()
while true do
    renew(only_a)
    renew(only_b)
end
