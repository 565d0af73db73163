-- A storm of trace recordings: loaded code that is hot once, code that cannot be compiled, traces flushed.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

-- As in `generated.lua`, the text of the chunk is that of these functions.
local number, first = 1, debug.getinfo(1, "l").currentline + 2

local function helper(i)
    return i % 5 + number
end

local function hot_once(n)
    local sum = 0
    for i = 1, n do
        sum = sum + helper(i) --> helper
        if i % 3 == 0 then
            sum = sum - 1
        end
    end
    return sum
end

local last = debug.getinfo(1, "l").currentline - 2
local lines = {}
for line in io.lines(debug.getinfo(1, "S").source:sub(2)) do
    lines[#lines + 1] = #lines + 1 >= first and #lines < last and line or ""
end
lines[first - 1] = "local number = ..."
lines[last + 1] = "return hot_once"
local text = table.concat(lines, "\n", 1, last + 1)
local source = debug.getinfo(1, "S").source
local chunk = assert((loadstring or load)(text, source))

local function run_new(number)
    local new = assert((loadstring or load)(text, source))
    local hot = new(number) --> main chunk
    return hot(200) + 0 --> hot_once
end

-- A closure of a prototype whose trace is another closure's.
local function run_closure(number)
    local hot = chunk(number) --> main chunk
    return hot(200) + 0 --> hot_once
end

-- Makes a closure in its loop, which is never compiled: recording is begun and given up.
local function given_up(n)
    local sum = 0
    for i = 1, n do
        local function unused()
            return i
        end
        sum = sum + i
    end
    return sum
end

local function flush()
    if jit then
        jit.flush()
    end
end

io.write("ready\n")
io.flush()
while true do
    for i = 1, 20 do
        run_new(i) --> run_new
        run_closure(i) --> run_closure
        given_up(100) --> given_up
    end
    local sum = spin(1000) --> spin
    flush() --> flush
end
