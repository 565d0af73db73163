-- Functions that a trace inlines into one loop: they take 4, 3, 2 and 1 tenths of its time, each in a loop unrolled by hand.
local data = {}
for i = 1, 64 do
    data[i] = i * 0.5
end

local function four_tenths(i)
    local sum = data[i] / 3
    sum = sum / 3 + data[i % 61 + 1]
    sum = sum / 3 + data[i % 59 + 1]
    sum = sum / 3 + data[i % 53 + 1]
    return sum / 3
end

local function three_tenths(i)
    local sum = data[i] / 3
    sum = sum / 3 + data[i % 47 + 1]
    sum = sum / 3 + data[i % 43 + 1]
    return sum / 3
end

local function two_tenths(i)
    local sum = data[i] / 3
    sum = sum / 3 + data[i % 41 + 1]
    return sum / 3
end

local function one_tenth(i)
    return data[i] / 3
end

local function loop()
    local sum = 0
    for i = 1, 64 do
        sum = sum + four_tenths(i) --> four_tenths
        sum = sum + three_tenths(i) --> three_tenths
        sum = sum + two_tenths(i) --> two_tenths
        sum = sum + one_tenth(i) --> one_tenth
    end
    return sum
end

-- Inlined through several levels.
local function lowest(i)
    local value = data[i]
    data[i] = value + 1
    data[i] = value
    return value
end

local function lower(i)
    local value = lowest(i) --> lowest
    return value + lowest(65 - i) --> lowest
end

local function low(i)
    local value = lower(i) --> lower
    return value + lower(65 - i) --> lower
end

local function levels()
    local sum = 0
    for i = 1, 64 do
        sum = sum + low(i) --> low
    end
    return sum
end

-- An inlined method, a closure, an inlined vararg function, and an inlined pcall.
local counter = { count = 0 }

function counter:add(n)
    self.count = (self.count + n) % 1000
    return self.count
end

local function made(n)
    local function closure(i)
        n = (n + i) % 1000
        return n
    end
    return closure
end

local closed = made(1) --> made

local function summed(...)
    local a, b = ...
    return a + b + select("#", ...)
end

local function checked(i)
    data[i] = data[i] + 1
    data[i] = data[i] - 1
    return data[i]
end

local function forms()
    local sum = 0
    for i = 1, 64 do
        sum = sum + counter:add(i) --> add
        sum = sum + closed(i) --> closure
        sum = sum + summed(i, 2) --> summed
        local ok, value = pcall(checked, i) --> checked through pcall
        sum = ok and sum + value
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    for _ = 1, 100 do
        loop() --> loop
        levels() --> levels
        forms() --> forms
    end
end
