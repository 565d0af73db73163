-- Recursion, mutual recursion, tail calls and varargs.
--: seen fib > fib > fib > fib > fib
--: seen spin
--: seen varargs > count > spin
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
    return fib(n - 1) + fib(n - 2) --> fib
end

local is_odd

local function is_even(n)
    if n == 0 then
        return spin(300) > 0 --> spin
    end
    local answer = is_odd(n - 1) --> is_odd
    return answer
end

function is_odd(n)
    if n == 0 then
        return false
    end
    local answer = is_even(n - 1) --> is_even
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
    local sum = spin(200) --> spin
    for i = 1, select("#", ...) do
        sum = sum + (select(i, ...))
    end
    return sum
end

local function varargs(...)
    local sum = count(...) --> count
    return sum
end

io.write("ready\n")
io.flush()
while true do
    fib(12) --> fib
    is_even(10) --> is_even
    local sum = tail(400) --> tail, last, spin
    sum = sum + varargs(1, 2, 3, 4) --> varargs
end
