-- Traces that are left all the time: side traces are never made, and guards fail in a tight loop.
if jit then
    -- An exit is counted up to 255: no exit ever gets hot.
    jit.opt.start("hotexit=60000")
end

local state = 1

local function random()
    state = (state * 16807) % 2147483647
    return state
end

local function left(n)
    return n % 7
end

local function right(n)
    return n % 5
end

local function at_random()
    local sum = 0
    for _ = 1, 100 do
        if random() % 2 == 0 then --> random
            sum = sum + left(state) --> left
        else
            sum = sum + right(state) --> right
        end
    end
    return sum
end

local function inner(n)
    if n % 2 == 0 then
        return n + 1
    end
    return n - 1
end

local function middle(n)
    local sum = inner(n) --> inner
    return sum + inner(n + 1) --> inner
end

local function outer()
    local sum = 0
    for i = 1, 100 do
        sum = sum + middle(random()) --> random, middle
    end
    return sum
end

local function short()
    local sum = 0
    for i = 1, 50 do
        for j = 1, i % 4 do
            sum = sum + inner(j) --> inner
        end
    end
    return sum
end

local function failing(n)
    if n % 2 == 0 then
        error("even")
    end
    return n
end

local function through_error()
    local count = 0
    for i = 1, 30 do
        local ok = pcall(failing, i) --> failing through pcall
        count = count + (ok and 1 or 0)
    end
    return count
end

io.write("ready\n")
io.flush()
while true do
    at_random() --> at_random
    outer() --> outer
    short() --> short
    through_error() --> through_error
end
