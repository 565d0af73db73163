-- table.sort with comparators written in Lua, also one that sorts, one that fails, and one that is a metamethod.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function fill(list, count)
    for i = 1, count do
        list[i] = i * 7919 % 41
    end
    return list
end

local function ascending(a, b)
    return a < b
end

local function slowly(a, b)
    spin(10) --> spin
    return a < b
end

local inner = {}

local function sorting(a, b)
    table.sort(fill(inner, 8), slowly) --> fill, slowly through table.sort ...
    return a < b
end

local function failing(a, b)
    spin(10) --> spin
    error("no order")
end

local function on_less(a, b)
    spin(10) --> spin
    return a.number < b.number
end

local numbers, few, objects = {}, {}, {}
local meta = { __lt = on_less }

local function sort_quickly()
    table.sort(fill(numbers, 60), ascending) --> fill, ascending through table.sort ...
end

local function sort_slowly()
    table.sort(fill(numbers, 60), slowly) --> fill, slowly through table.sort ...
end

local function sort_in_sort()
    table.sort(fill(few, 6), sorting) --> fill, sorting through table.sort ...
end

local function sort_objects()
    for i = 1, 20 do
        objects[i] = setmetatable({ number = i * 7919 % 41 }, meta)
    end
    table.sort(objects) --> on_less through table.sort ...
end

local function sort_by_builtin()
    table.sort(fill(numbers, 60), math.max) --> fill
end

local function fail_in_sort()
    local ok = pcall(table.sort, fill(few, 6), failing) --> fill, failing through pcall table.sort ...
    ok = pcall(sort_by_builtin) --> sort_by_builtin through pcall
    return ok
end

io.write("ready\n")
io.flush()
while true do
    sort_quickly() --> sort_quickly
    sort_slowly() --> sort_slowly
    sort_in_sort() --> sort_in_sort
    sort_objects() --> sort_objects
    fail_in_sort() --> fail_in_sort
end
