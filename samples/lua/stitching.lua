-- Trace stitching: hot loops that call builtins and functions which cannot be compiled.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function in_loop(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
        local text = string.gsub("some text", "t", "d")
        sum = sum + #text
    end
    return sum
end

local function clock(n)
    local sum = 0
    for i = 1, n do
        sum = sum + os.clock() + spin(5) --> spin
    end
    return sum
end

local function replaced(text)
    local result = text:gsub("e", "a")
    return #result
end

local function in_callee(n)
    local sum = 0
    for i = 1, n do
        sum = sum + replaced("some text") --> replaced
        sum = sum + i % 3
    end
    return sum
end

local list = { 3, 1, 2 }

local function sorted(n)
    local sum = 0
    for i = 1, n do
        list[1] = i % 5
        table.sort(list)
        sum = sum + list[1]
    end
    return sum
end

local function described(n)
    local sum = 0
    for i = 1, n do
        local info = debug.getinfo(1, "l")
        sum = sum + info.currentline
    end
    return sum
end

local function captured(n)
    local sum = 0
    for i = 1, n do
        local function capture()
            return i
        end
        sum = sum + capture() --> capture
    end
    return sum
end

local function tail_clock()
    return os.clock()
end

local function tail_called(n)
    local sum = 0
    for i = 1, n do
        sum = sum + tail_clock() --> tail_clock
    end
    return sum
end

local function protected(n)
    local sum = 0
    for i = 1, n do
        local ok, length = pcall(replaced, "some text") --> replaced through pcall
        sum = ok and sum + length
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    local sum = in_loop(100) --> in_loop
    sum = sum + clock(20) --> clock
    sum = sum + in_callee(100) --> in_callee
    sum = sum + sorted(100) --> sorted
    sum = sum + described(50) --> described
    sum = sum + captured(100) --> captured
    sum = sum + tail_called(20) --> tail_called
    sum = sum + protected(50) --> protected
end
