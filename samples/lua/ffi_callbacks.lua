-- FFI callbacks: that catch errors, that call C which calls back again, in coroutines, made and freed.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local ffi = require "ffi"
ffi.cdef [[
typedef int (*order)(const int *, const int *);
void qsort(void *, size_t, size_t, order);
void *bsearch(const void *, const void *, size_t, size_t, order);
]]
local C = ffi.C

local function by_value(a, b)
    spin(10) --> spin
    return a[0] - b[0]
end

local few, many, key = ffi.new("int[8]"), ffi.new("int[24]"), ffi.new("int[1]")
local value_order = ffi.cast("order", by_value)

local function fill(numbers, count)
    for i = 0, count - 1 do
        numbers[i] = i * 7919 % 67
    end
end

local function by_sorting(a, b)
    fill(few, 8) --> fill
    C.qsort(few, 8, 4, value_order) --> by_value through ...
    return a[0] - b[0]
end

local function failing(n)
    spin(10) --> spin
    error("failed")
end

local function by_catching(a, b)
    pcall(failing, 1) --> failing through pcall
    return a[0] - b[0]
end

local function yielding(n)
    coroutine.yield(n)
    spin(10) --> spin
end

local function by_resuming(a, b)
    local thread = coroutine.wrap(yielding)
    thread(1) --> yielding through *
    thread() --> yielding through *
    return a[0] - b[0]
end

local sorting_order, catching_order = ffi.cast("order", by_sorting), ffi.cast("order", by_catching)
local resuming_order = ffi.cast("order", by_resuming)

local function sort(order)
    fill(many, 24) --> fill
    C.qsort(many, 24, 4, order) --> by_value through ..., by_sorting through ..., by_catching through ..., by_resuming through ...
end

local function search()
    key[0] = 66
    return C.bsearch(key, many, 24, 4, value_order) ~= nil --> by_value through ...
end

local function sort_once()
    fill(few, 8) --> fill
    local order = ffi.cast("order", by_value)
    C.qsort(few, 8, 4, order) --> by_value through ...
    order:free()
end

-- A trace that calls C code that calls back is an error in LuaJIT.
if jit then
    jit.off(by_sorting)
    jit.off(sort)
    jit.off(search)
    jit.off(sort_once)
end

io.write("ready\n")
io.flush()
while true do
    sort(value_order) --> sort
    sort(sorting_order) --> sort
    sort(catching_order) --> sort
    sort(resuming_order) --> sort
    search() --> search
    sort_once() --> sort_once
    local in_thread = coroutine.wrap(sort)
    in_thread(value_order) --> sort through *
end
