-- Code that is loaded, run hot, dropped and collected, again and again: each generation lies where the last one was. Its
-- functions bear its number, and so do the two functions that call it, which stay: `tens_1` and `units_7` call `outer_17`,
-- which calls `inner_17`. The argument says what the chunks are called: `text` for their own text, or a chunk name.
local util = require "jit.util"
local name = arg[1] or "text"

local text = [[
local hits = 0
local function inner_%02d(n)
    if n %% 7 == 0 then
        hits = hits + 1
    end
    return hits
end
local function outer_%02d(n)
    local sum = 0
    for i = 1, n do
        sum = sum + inner_%02d(i)
    end
    return sum
end
return outer_%02d, inner_%02d
]]

local tens, units = {}, {}
function tens.tens_0(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_1(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_2(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_3(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_4(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_5(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_6(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_7(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_8(number, f) local sum = units["units_" .. number % 10](f) return sum end
function tens.tens_9(number, f) local sum = units["units_" .. number % 10](f) return sum end
function units.units_0(f) local sum = f(20000) return sum end
function units.units_1(f) local sum = f(20000) return sum end
function units.units_2(f) local sum = f(20000) return sum end
function units.units_3(f) local sum = f(20000) return sum end
function units.units_4(f) local sum = f(20000) return sum end
function units.units_5(f) local sum = f(20000) return sum end
function units.units_6(f) local sum = f(20000) return sum end
function units.units_7(f) local sum = f(20000) return sum end
function units.units_8(f) local sum = f(20000) return sum end
function units.units_9(f) local sum = f(20000) return sum end
for _, functions in ipairs { tens, units } do
    for _, f in pairs(functions) do
        -- Only what is dropped is compiled.
        jit.off(f)
    end
end

-- Runs one generation for some milliseconds of CPU time, and returns where its prototypes were.
local function generation(number)
    local source = text:format(number, number, number, number, number)
    local outer, inner = assert(loadstring(source, name ~= "text" and name or nil))()
    local stop = os.clock() + 0.03
    repeat
        tens["tens_" .. (number - number % 10) / 10](number, outer)
    until os.clock() > stop
    return tostring(util.funcinfo(outer).proto) .. tostring(util.funcinfo(inner).proto)
end

local function round(number)
    local place = generation(number)
    jit.flush()
    collectgarbage()
    collectgarbage()
    return place
end

local places, reused, number = {}, 0, 0
repeat
    local place = round(number % 100)
    reused = reused + (places[place] and 1 or 0)
    places[place] = true
    number = number + 1
    assert(number < 200, "memory is not reused")
until reused == 10

io.write("ready\n")
io.flush()
while true do
    for number = 0, 99 do
        round(number)
    end
end
