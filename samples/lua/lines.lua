-- Functions that spend more than 99 hundredths of their time in one of their lines, which says so: `-- hot`.
--: seen straight
--: seen guarded
--: seen branching
--: seen called > texts
--: seen called > lengths
--: seen inlining > first
--: seen inlining > second
--: seen inlining > third
--: seen nested > outer > inner
local ffi = require "ffi"
ffi.cdef [[
size_t strlen(const char *);
void *memset(void *, int, size_t);
]]
local size = 1048576
local text = ffi.new("char[?]", size)
ffi.C.memset(text, 97, size - 1)
local data = {}
for i = 1, 64 do
    data[i] = i * 0.5
end
local gsub, long = string.gsub, string.rep("ab", 4000)

-- A line of arithmetic in a loop.
local function straight(n)
    local sum = 1
    for i = 1, n do
        sum = sum ^ .15 + sum ^ .16 + sum ^ .17 + sum ^ .18 + sum ^ .19 + sum ^ .20 + sum ^ .21 + sum ^ .22 + sum ^ .23 + sum ^ .24 + sum ^ .25 + sum ^ .26 + sum ^ .27 + sum ^ .28 + sum ^ .29 + sum ^ .30 + sum ^ .31 + sum ^ .32 + sum ^ .33 + sum ^ .34 + sum ^ .35 + sum ^ .36 + sum ^ .37 + sum ^ .38 + sum ^ .39 + sum ^ .40 + sum ^ .41 + sum ^ .42 + sum ^ .43 + sum ^ .44 + i % 8 -- hot
    end
    local result = sum + n
    return result
end

-- Loads from a table, of which each has guards in a trace.
local function guarded(n)
    local sum = 1
    for i = 1, n do
        sum = data[i % 61 + 1] + (sum + data[i % 11 + 1]) ^ .11 + (sum + data[i % 13 + 1]) ^ .13 + (sum + data[i % 17 + 1]) ^ .17 + (sum + data[i % 19 + 1]) ^ .19 + (sum + data[i % 23 + 1]) ^ .23 + (sum + data[i % 29 + 1]) ^ .29 + (sum + data[i % 31 + 1]) ^ .31 + (sum + data[i % 37 + 1]) ^ .37 + (sum + data[i % 41 + 1]) ^ .41 + (sum + data[i % 43 + 1]) ^ .43 + (sum + data[i % 47 + 1]) ^ .47 + (sum + data[i % 53 + 1]) ^ .53 -- hot
    end
    return sum
end

-- The line is run in one of two ways through the loop.
local function branching(n)
    local sum, others = 1, 0
    for i = 1, n do
        if i % 64 > 0 then
            sum = tonumber(ffi.C.strlen(text)) % i + (sum + i) ^ .15 + (sum + n) ^ .16 -- hot
        else
            others = others + 1
        end
    end
    return sum + others
end

-- A builtin that is no part of a trace.
local function texts(n)
    local sum = n
    local _, count = gsub(long, "b", "c") -- hot
    return sum + count
end

-- A C function.
local function lengths(n)
    local sum = n
    for _ = 1, 10 do
        sum = sum + tonumber(ffi.C.strlen(text)) -- hot
    end
    return sum
end

local function called(n)
    local sum = 0
    for _ = 1, n do
        sum = sum + texts(3) --> texts
        sum = sum + lengths(3) --> lengths
    end
    return sum
end

-- Inlined into a loop one after the other: behind a comparison, behind two, behind a store.
local function first(i, sum)
    if i < 0 then
        return 0
    end
    return sum + tonumber(ffi.C.strlen(text)) % (i + 7) -- hot
end

local function second(i, sum)
    local value = 1
    if sum > 0 and i > 0 then
        value = tonumber(ffi.C.strlen(text)) % (i + 9) -- hot
    end
    return sum + value
end

local function third(i, sum)
    data[3] = i
    local value = tonumber(ffi.C.strlen(text)) % (i + 11) -- hot
    return sum + value
end

local function inlining(n)
    local sum = 1
    for i = 1, n do
        sum = first(i, sum) --> first
        sum = second(i, sum) --> second
        sum = third(i, sum) --> third
    end
    return sum
end

local function inner(i, sum)
    if sum < 0 then
        return 1
    end
    return tonumber(ffi.C.strlen(text)) % i + (sum + data[i % 41 + 1]) ^ .14 -- hot
end

local function outer(i, sum)
    local value = inner(i, sum) --> inner
    return value + 1
end

local function nested(n)
    local sum = 1
    for i = 1, n do
        sum = outer(i, sum) --> outer
    end
    return sum
end

print("ready")
io.stdout:flush()
while true do
    straight(2000) --> straight
    guarded(4000) --> guarded
    branching(100) --> branching
    called(20) --> called
    inlining(100) --> inlining
    nested(100) --> nested
end
