-- Run before a script: a hook that is called after every thousand instructions and takes its time.
local function hook_work(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function count_hook()
    local sum = hook_work(100) --> hook_work
    return sum
end

debug.sethook(count_hook, "", 1000)
