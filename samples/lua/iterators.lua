-- Generic for loops over iterators written in Lua, and over pairs and ipairs.
--: seen walk_range > step > spin
--: seen walk_down > next_down > spin
--: seen walk_table > spin
--: seen walk_table
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function step(limit, i)
    spin(60) --> spin
    if i < limit then
        return i + 1
    end
end

local function range(limit)
    return step, limit, 0
end

local function walk_range()
    local sum = 0
    for i in range(20) do --> range, step
        sum = sum + i
    end
    return sum
end

-- A closure as iterator.
local function countdown(n)
    local function next_down()
        spin(60) --> spin
        n = n - 1
        return n >= 0 and n or nil
    end
    return next_down
end

local function walk_down()
    local sum = 0
    for i in countdown(20) do --> countdown, next_down
        sum = sum + i
    end
    return sum
end

local goods = {}
for i = 1, 50 do
    goods[i] = i
    goods["k" .. i] = i
end

local function walk_table()
    local sum = 0
    for _, value in pairs(goods) do
        sum = sum + value
    end
    for _, value in ipairs(goods) do
        sum = sum + value
    end
    return sum + spin(300) --> spin
end

io.write("ready\n")
io.flush()
while true do
    walk_range() --> walk_range
    walk_down() --> walk_down
    walk_table() --> walk_table
end
