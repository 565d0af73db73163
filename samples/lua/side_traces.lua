-- Side traces: loops and functions that take one of several ways, with calls on each.
local state = 1

local function random()
    state = (state * 16807) % 2147483647
    return state
end

local function rarely(n)
    local sum = 0
    for i = 1, 3 do
        sum = sum + i * n
    end
    return sum
end

local function sometimes(n)
    return n % 1000 + 1
end

local function often(n)
    return n % 100
end

local function nested_ways(n)
    if n % 3 == 0 then
        return sometimes(n) + 1 --> sometimes
    elseif n % 3 == 1 then
        return often(n) + 1 --> often
    end
    return rarely(n) + 1 --> rarely
end

local function ways()
    local sum = 0
    for _ = 1, 200 do
        local n = random() --> random
        if n % 16 == 0 then
            sum = sum + rarely(n) --> rarely
        elseif n % 4 == 0 then
            sum = sum + sometimes(n) --> sometimes
        elseif n % 2 == 0 then
            sum = sum + nested_ways(n) --> nested_ways
        else
            sum = sum + often(n) --> often
        end
    end
    return sum
end

local function mixed(values)
    local count = 0
    for i = 1, #values do
        local value = values[i]
        if type(value) == "number" then
            count = count + often(value) --> often
        elseif type(value) == "string" then
            count = count + sometimes(#value) --> sometimes
        else
            count = count + nested_ways(#value) --> nested_ways
        end
    end
    return count
end

local values = {}
for i = 1, 100 do
    local n = random() --> random
    values[i] = n % 3 == 0 and n or n % 3 == 1 and tostring(n) or { n, n }
end

local function called()
    local sum = 0
    for i = 1, 50 do
        local way = i % 7 < 3 and often or i % 7 < 6 and sometimes or rarely
        sum = sum + way(i) --> often, sometimes, rarely
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    ways() --> ways
    mixed(values) --> mixed
    called() --> called
end
