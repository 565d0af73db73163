-- Builtins and functions of C libraries, which have the name that Lua code uses however they are called. Behind `-->` stand
-- the names of what the function in that line calls, each of which burns enough CPU time to be seen.
local ffi = require "ffi"
local buffer = require "string.buffer"
local cjson = arg[1] == "cjson" and require "cjson"
local gsub = string.gsub
local renamed = { of = { format = string.format } }

local text = ("some words to be worked on "):rep(200)
local words = {}
for word in text:gmatch("%a+") do
    words[#words + 1] = word
end
local from, to = ffi.new("char[?]", 1000000), ffi.new("char[?]", 1000000)
local sink

local run = {}

function run.rep() --> string.rep
    sink = string.rep("ab", 100000)
end

function run.format() --> string.format
    for i = 1, 20 do
        sink = renamed.of.format("%99.14f %99s %q", i, "x", text)
    end
end

function run.gsub() --> string.gsub
    sink = gsub(text, "%a+", "%0 ")
end

function run.method() --> string.find
    sink = text:sub(1, 400):find(".-!")
end

function run.gmatch() --> string.gmatch_aux
    for word in text:gmatch(".-%s") do
        sink = word
    end
end

function run.reverse() --> string.reverse
    sink = string.reverse(text:rep(10))
end

function run.concat() --> table.concat
    sink = table.concat(words, ", ")
end

function run.sort() --> table.sort
    local copy = {}
    for i = 1, 500 do
        copy[i] = i * 7919 % 503
    end
    table.sort(copy)
end

function run.remove() --> table.insert, table.remove
    local list = {}
    for i = 1, 500 do
        table.insert(list, 1, i)
    end
    for i = 1, 500 do
        table.remove(list, 1)
    end
end

function run.floor() --> math.fmod
    local sum = 0
    for i = 1, 2000 do
        sum = sum + math.fmod(1e300, i + 0.5)
    end
    sink = sum
end

function run.copy() --> ffi.copy
    ffi.copy(to, from, 1000000)
end

function run.fill() --> ffi.fill
    ffi.fill(to, 1000000)
end

function run.tohex() --> bit.tohex
    for i = 1, 500 do
        sink = bit.tohex(i)
    end
end

local printed = setmetatable({}, {
    __tostring = function()
        return text:upper():lower()
    end,
})
-- `tostring` leaves its frame to what it calls.
function run.tostring() --> string.upper, string.lower
    for i = 1, 20 do
        sink = tostring(printed)
    end
end

function run.load() --> loadstring, load
    sink = loadstring("return {" .. ("1,"):rep(2000) .. "}")
    sink = load(("x = 1 "):rep(1000))
end

local function fails()
    error(setmetatable({}, {}))
end
function run.error() --> error, pcall, xpcall, debug.traceback
    for i = 1, 100 do
        pcall(fails)
        xpcall(fails, debug.traceback)
        sink = debug.traceback("x")
    end
end

function run.dump() --> string.dump
    for i = 1, 50 do
        sink = string.dump(run.error)
    end
end

function run.coroutines() --> coroutine.wrap_aux, coroutine.resume
    local function body()
        for i = 1, 200 do
            coroutine.yield(i)
        end
        local sum = 0
        for i = 1, 2000 do
            sum = sum + i % 7
        end
        sink = sum
    end
    local wrapped = coroutine.wrap(body)
    for i = 1, 200 do
        wrapped()
    end
    wrapped()
    local thread = coroutine.create(body)
    for i = 1, 201 do
        coroutine.resume(thread)
    end
end

function run.buffers() --> buffer:put, buffer:encode
    local buffered = buffer.new()
    for i = 1, 100 do
        buffered:put(text)
    end
    buffered:reset()
    for i = 1, 10 do
        buffered:encode(words)
    end
end

if cjson then
    function run.cjson() --> cjson.encode, cjson.decode
        sink = cjson.decode(cjson.encode(words))
    end
end

function run.collect() --> collectgarbage
    collectgarbage("step")
end

io.write("ready\n")
io.flush()
while true do
    for _, one in pairs(run) do
        local stop = os.clock() + 0.002
        repeat
            one()
        until os.clock() > stop
    end
end
