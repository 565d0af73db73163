-- Recursion, mutual recursion, tail calls and varargs.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function fib(n)
    if n < 2 then
        return n
    end
    return fib(n - 1) + fib(n - 2)
end

local is_odd

local function is_even(n)
    if n == 0 then
        return spin(300) > 0
    end
    local answer = is_odd(n - 1)
    return answer
end

function is_odd(n)
    if n == 0 then
        return false
    end
    local answer = is_even(n - 1)
    return answer
end

local function last(n)
    return spin(n)
end

-- Leaves no frame: `last` returns to whoever called this.
local function tail(n)
    return last(n)
end

local function count(...)
    local sum = spin(200)
    for i = 1, select("#", ...) do
        sum = sum + (select(i, ...))
    end
    return sum
end

local function varargs(...)
    local sum = count(...)
    return sum
end

io.write("ready\n")
io.flush()
while true do
    fib(12)
    is_even(10)
    local sum = tail(400)
    sum = sum + varargs(1, 2, 3, 4)
end
