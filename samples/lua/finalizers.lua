-- Finalizers, which the garbage collector runs wherever memory is allocated: of userdata, and of C data.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local ffi = require "ffi"
local finalized = 0

local function on_collect(object)
    finalized = finalized + spin(60) --> spin
end

local function on_collect_cdata(pointer)
    finalized = finalized + spin(60) --> spin
end

local number = ffi.typeof("struct { double number; }")

-- The collector is called by this function and by nothing else: it runs in steps that the loop asks for.
local function step()
    collectgarbage("step", 20) --> on_collect through collectgarbage ..., on_collect_cdata through collectgarbage ...
end

local function discard_userdata()
    local object = newproxy(true)
    getmetatable(object).__gc = on_collect
end

local function discard_cdata()
    ffi.gc(number(), on_collect_cdata)
end

collectgarbage("stop")

-- Here it runs by itself, in the interpreter and in builtins written in C.
local function allocate()
    for i = 1, 20 do
        local list = { i } --> on_collect through ..., on_collect_cdata through ...
        list.text = ("x"):rep(i + 100) --> on_collect through string.rep ..., on_collect_cdata through string.rep ...
    end
end

io.write("ready\n")
io.flush()
while true do
    for _ = 1, 20 do
        discard_userdata() --> discard_userdata
        discard_cdata() --> discard_cdata
        step() --> step
    end
    for _ = 1, 20 do
        discard_userdata() --> discard_userdata
        discard_cdata() --> discard_cdata
    end
    collectgarbage("restart")
    allocate() --> allocate
    collectgarbage("stop")
end
