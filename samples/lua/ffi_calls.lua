-- C functions that burn CPU, called through the FFI: of the C library, and of zlib where there is one.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local ffi = require "ffi"
ffi.cdef [[
size_t strlen(const char *);
void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
void *memchr(const void *, int, size_t);
long strtol(const char *, char **, int);
int snprintf(char *, size_t, const char *, ...);
int abs(int);
unsigned long crc32(unsigned long, const char *, unsigned);
]]
local C = ffi.C
local size = 4096
local from, to = ffi.new("char[?]", size), ffi.new("char[?]", size)
local found, zlib = pcall(ffi.load, "z.so.1")

local function fill()
    C.memset(from, 97, size - 1)
    return spin(10) --> spin
end

local function copy()
    for _ = 1, 20 do
        C.memcpy(to, from, size)
    end
    return spin(10) --> spin
end

local function measure()
    local length = 0
    for _ = 1, 20 do
        length = length + tonumber(C.strlen(from)) + spin(5) --> spin
    end
    return length
end

local function search()
    local count = 0
    for _ = 1, 20 do
        if C.memchr(from, 98, size) == nil then
            count = count + 1
        end
    end
    return count
end

local function convert()
    local sum = 0
    for i = 1, 20 do
        C.snprintf(to, size, "%d", ffi.cast("int", i * 7919))
        sum = sum + tonumber(C.strtol(to, nil, 10))
    end
    return sum
end

local function smallest()
    local sum = 0
    for i = 1, 200 do
        sum = sum + C.abs(-i)
    end
    return sum
end

local function check()
    local sum = 0
    if found then
        for _ = 1, 5 do
            sum = sum + tonumber(zlib.crc32(0, from, size))
        end
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    local sum = fill() + copy() --> fill, copy, spin
    sum = sum + measure() --> measure
    sum = sum + search() --> search
    sum = sum + convert() --> convert
    sum = sum + smallest() --> smallest
    sum = sum + check() --> check
end
