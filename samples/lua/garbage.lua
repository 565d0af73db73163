-- Work for the garbage collector: strings, tables, closures and C data that live for a moment.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local ffi = require "ffi"
local point = ffi.typeof("struct { double x, y; }")

local function make_strings(n)
    local length = 0
    for i = 1, n do
        local text = "text " .. i
        length = length + #(text .. text:sub(2, 4):upper())
    end
    return length
end

local function make_tables(n)
    local list = {}
    for i = 1, n do
        list[i] = { i, name = i, { i } }
    end
    return #list
end

local function make_closure(i)
    local function captured(j)
        i = i + j
        return i
    end
    return captured
end

local function make_closures(n)
    local sum = 0
    for i = 1, n do
        sum = sum + make_closure(i)(1) --> make_closure, captured
    end
    return sum
end

local function make_cdata(n)
    local sum = 0
    local last = point(0, 0)
    for i = 1, n do
        last = point(i, last.x)
        sum = sum + last.y
    end
    return sum
end

local function make_threads(n)
    local count = 0
    for _ = 1, n do
        local thread = coroutine.create(spin)
        count = count + (thread and 1 or 0)
    end
    return count
end

local kept = {}

local function keep(n)
    kept[n] = make_tables(20) + n --> make_tables
    kept[n + 1] = { ("kept"):rep(n) }
    kept[n - 10] = nil
    return spin(10) --> spin
end

local function collect()
    collectgarbage()
    return spin(10) --> spin
end

io.write("ready\n")
io.flush()
while true do
    for i = 1, 50 do
        make_strings(50) --> make_strings
        make_tables(50) --> make_tables
        make_closures(50) --> make_closures
        make_cdata(50) --> make_cdata
        make_threads(10) --> make_threads
        local sum = keep(i) --> keep, spin
    end
    local sum = collect() --> collect, spin
end
