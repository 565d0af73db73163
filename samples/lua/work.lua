-- A fixed amount of mixed work, to measure what a profiler costs: the argument is the number of rounds. Begins when a line
-- arrives on standard input.
local rounds = tonumber((...))

local function fib(n)
    if n < 2 then
        return n
    end
    return fib(n - 1) + fib(n - 2)
end

local function by_size(a, b)
    return a.size < b.size
end

local function sorted()
    local items = {}
    for i = 1, 100 do
        items[i] = { name = "item " .. i, size = i * 7919 % 101 }
    end
    table.sort(items, by_size)
    return items
end

local function upper(word)
    return word:upper()
end

local function joined(items)
    local names = {}
    for i, item in ipairs(items) do
        names[i] = item.name:gsub("%a+", upper)
    end
    return table.concat(names, ",")
end

local function numbers()
    local sum = 0
    for i = 1, 20000 do
        sum = sum + i % 7 * 0.5
    end
    return sum
end

io.write("ready\n")
io.flush()
io.read("*l")
for _ = 1, rounds do
    fib(15)
    numbers()
    joined(sorted())
end
