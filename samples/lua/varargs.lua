-- Varargs of changing count: counted, selected, packed, passed on, returned.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local unpack = unpack or table.unpack

local function counted(...)
    spin(10) --> spin
    return select("#", ...)
end

local function selected(...)
    local sum = 0
    for i = 1, select("#", ...) do
        sum = sum + select(i, ...)
    end
    return sum + spin(10) --> spin
end

local function packed(...)
    local list = { ... }
    return #list + spin(10) --> spin
end

local function first_of(first, ...)
    spin(10) --> spin
    return first
end

-- Leaves no frame: `counted` returns to whoever called this.
local function tail_passed(...)
    return counted(...)
end

local function passed(...)
    local count = counted(...) --> counted
    count = count + selected(...) --> selected
    count = count + packed(...) --> packed
    count = count + first_of(...) --> first_of
    count = count + tail_passed(...) --> tail_passed, counted
    return count
end

local function returned(...)
    spin(10) --> spin
    return ...
end

local function halves(n, ...)
    if n == 0 then
        return ...
    end
    spin(5) --> spin
    return n, returned(...) --> returned
end

local function grown(n, ...)
    if n == 0 then
        return selected(...) + 0 --> selected
    end
    return grown(n - 1, n, ...) + 0 --> grown
end

local lists = {}
for i = 0, 24 do
    lists[i] = {}
    for j = 1, i do
        lists[i][j] = j
    end
end

local function changing()
    local sum = 0
    for i = 1, 24 do
        sum = sum + passed(unpack(lists[i])) --> passed
        sum = sum + select("#", returned(unpack(lists[24 - i]))) --> returned
        sum = sum + select("#", halves(i, unpack(lists[i]))) --> halves
    end
    return sum + grown(20) --> grown
end

io.write("ready\n")
io.flush()
while true do
    changing() --> changing
end
