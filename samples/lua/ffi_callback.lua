-- A C function, called through the FFI, that calls back into Lua.
--: seen sort_numbers > compare > spin
local ffi = require "ffi"
ffi.cdef "void qsort(void *base, size_t count, size_t size, int (*compare)(const int *, const int *));"

local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function compare(a, b)
    spin(40) --> spin
    return a[0] - b[0]
end

local callback = ffi.cast("int (*)(const int *, const int *)", compare)
local numbers = ffi.new("int[?]", 64)

local function sort_numbers()
    for i = 0, 63 do
        numbers[i] = i * 7919 % 67
    end
    ffi.C.qsort(numbers, 64, 4, callback) --> compare through ...
    return numbers[0]
end
-- A trace that calls C code that calls back is an error in LuaJIT.
jit.off(sort_numbers)

io.write("ready\n")
io.flush()
while true do
    sort_numbers() --> sort_numbers
end
