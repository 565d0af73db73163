-- Metamethods written in Lua.
--: seen index_it > on_index > spin
--: seen assign_it > on_newindex > spin
--: seen call_it > on_call > spin
--: seen join_it > on_concat > spin
--: seen compare_it > on_less > spin
--: seen equal_it > on_equal > spin
--: seen add_it > on_add > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function on_index(object, key)
    local sum = spin(150) --> spin
    return sum + key
end

local function on_newindex(object, key, value)
    local sum = spin(150) --> spin
    rawset(object, "last", sum + key + value)
end

local function on_call(object, n)
    local sum = spin(n) --> spin
    return sum
end

local function on_concat(left, right)
    spin(150) --> spin
    return "joined"
end

local function on_less(left, right)
    local sum = spin(150) --> spin
    return sum > 0
end

local function on_equal(left, right)
    local sum = spin(150) --> spin
    return sum > 0
end

local function on_add(left, right)
    local sum = spin(150) --> spin
    return sum
end

local meta = {
    __index = on_index,
    __newindex = on_newindex,
    __call = on_call,
    __concat = on_concat,
    __lt = on_less,
    __eq = on_equal,
    __add = on_add,
}
local a, b = setmetatable({}, meta), setmetatable({}, meta)

local function index_it()
    return a[3] + a[5] --> on_index
end

local function assign_it()
    a[3] = 5 --> on_newindex
    return a.last
end

local function call_it()
    local sum = a(150) --> on_call
    return sum
end

local function join_it()
    local text = a .. "text" --> on_concat
    return text
end

local function compare_it()
    if a < b then --> on_less
        return 1
    end
    return 2
end

local function equal_it()
    if a == b then --> on_equal
        return 1
    end
    return 2
end

local function add_it()
    local sum = a + b --> on_add
    return sum
end

io.write("ready\n")
io.flush()
while true do
    index_it() --> index_it
    assign_it() --> assign_it
    call_it() --> call_it
    join_it() --> join_it
    compare_it() --> compare_it
    equal_it() --> equal_it
    add_it() --> add_it
end
