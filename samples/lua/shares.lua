-- Functions with known shares of the time: the same loop, run 48, 24, 20 and 8 times in a hundred.
-- Each has a copy of the loop, so that a function's own time is its share.
--: seen half
--: seen quarter
--: seen fifth
--: seen twelfth

local function half()
    local sum = 0
    for i = 1, 4800 do
        sum = sum + i % 7
    end
    return sum
end

local function quarter()
    local sum = 0
    for i = 1, 2400 do
        sum = sum + i % 7
    end
    return sum
end

local function fifth()
    local sum = 0
    for i = 1, 2000 do
        sum = sum + i % 7
    end
    return sum
end

local function twelfth()
    local sum = 0
    for i = 1, 800 do
        sum = sum + i % 7
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    half() --> half
    quarter() --> quarter
    fifth() --> fifth
    twelfth() --> twelfth
end
