-- Operators on userdata: comparisons, arithmetic, concatenation, length, calls of things that are no functions.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function on_equal(left, right)
    return spin(10) > 0 --> spin
end

local function on_less(left, right)
    return spin(10) > 0 --> spin
end

local function on_less_or_equal(left, right)
    return spin(10) > 0 --> spin
end

local function on_concat(left, right)
    spin(10) --> spin
    return "joined"
end

local function on_minus(operand)
    local sum = spin(10) --> spin
    return sum
end

local function on_length(operand)
    local sum = spin(10) --> spin
    return sum
end

local function on_arithmetic(left, right)
    local sum = spin(10) --> spin
    return sum
end

local function on_text(operand)
    spin(10) --> spin
    return "text"
end

local function innermost_call(object, n)
    local sum = spin(n) --> spin
    return sum
end

local function new(call)
    local object = newproxy(true)
    local meta = getmetatable(object)
    meta.__eq, meta.__lt, meta.__le, meta.__concat = on_equal, on_less, on_less_or_equal, on_concat
    meta.__unm, meta.__len, meta.__call, meta.__tostring = on_minus, on_length, call, on_text
    meta.__add, meta.__sub, meta.__mul, meta.__div = on_arithmetic, on_arithmetic, on_arithmetic, on_arithmetic
    meta.__mod, meta.__pow = on_arithmetic, on_arithmetic
    return object
end

local third = new(innermost_call)

local function middle_call(object, n)
    local sum = third(n) --> innermost_call
    return sum
end

local second = new(middle_call)

-- Leaves no frame: `middle_call` returns to whoever called this.
local function outermost_call(object, ...)
    return second(...)
end

local first = new(outermost_call)
-- __eq, __lt and __le are called only when both sides have the same one.
local other = new(innermost_call)

local function equal()
    local answer = first == other --> on_equal
    if first ~= other then --> on_equal
        return 1
    end
    return answer
end

local function less()
    local answer = first < other --> on_less
    if first >= other then --> on_less_or_equal
        return 1
    end
    if first > other then --> on_less
        return 2
    end
    return first <= other and answer --> on_less_or_equal
end

local function concat()
    local text = first .. "text" --> on_concat
    text = "text" .. 1 .. first --> on_concat
    return "a" .. first .. "b" .. other --> on_concat
end

local function unary()
    local sum = -first --> on_minus
    sum = sum + #first --> on_length
    return sum
end

local function arithmetic()
    local sum = first + 1 --> on_arithmetic
    sum = sum + (1 - first) --> on_arithmetic
    sum = sum + first * other --> on_arithmetic
    sum = sum + first / 3 --> on_arithmetic
    sum = sum + first % 3 --> on_arithmetic
    return sum + first ^ 2 --> on_arithmetic
end

local function call()
    local sum = first(10) --> outermost_call, middle_call
    sum = sum + second(10) --> middle_call
    local ok, more = pcall(first, 10) --> outermost_call through pcall, middle_call through pcall
    return ok and sum + more
end

-- `tostring` makes a tail call of __tostring.
local function text()
    local length = #tostring(first) --> on_text
    return length
end

io.write("ready\n")
io.flush()
while true do
    equal() --> equal
    less() --> less
    concat() --> concat
    unary() --> unary
    arithmetic() --> arithmetic
    call() --> call
    text() --> text
end
