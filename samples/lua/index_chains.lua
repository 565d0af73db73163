-- Chains of __index and __newindex over tables and functions.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local base = {}

function base.method(object, n)
    local sum = spin(n) --> spin
    return sum + object.number
end

local function missing(object, key)
    spin(10) --> spin
    return key
end

local function refused(object, key, value)
    spin(10) --> spin
    rawset(base, "last", value)
end

local last = setmetatable(base, { __index = missing, __newindex = refused })
for _ = 1, 8 do
    last = setmetatable({}, { __index = last, __newindex = last })
end
local object = setmetatable({ number = 1 }, { __index = last, __newindex = last })

local function forwarded(_, key)
    spin(10) --> spin
    return object[key] --> missing
end

local through = setmetatable({}, { __index = setmetatable({}, { __index = forwarded }) })

local function by_method()
    return object:method(10) + 1 --> method
end

local function by_key()
    return #object.absent + object[17] --> missing
end

local function by_function()
    return #through.absent + #through["nothing"] --> forwarded
end

local function by_assignment(n)
    object.fresh = n --> refused
    object[n] = n --> refused
    base.fresh, base[n] = nil --> refused
    return n
end

local function by_string(text)
    return text:upper() .. text:len()
end

io.write("ready\n")
io.flush()
while true do
    by_method() --> by_method
    by_key() --> by_key
    by_function() --> by_function
    by_assignment(3) --> by_assignment
    by_string("text") --> by_string
end
