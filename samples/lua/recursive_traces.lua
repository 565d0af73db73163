-- Traces of recursive functions: up-recursion, down-recursion, tail recursion, of one function and of two.
local function up(n)
    if n == 0 then
        return 0
    end
    return up(n - 1) + n --> up
end

local function twice(n)
    if n < 2 then
        return n
    end
    return twice(n - 1) + twice(n - 2) --> twice
end

local function tail(n, sum)
    if n == 0 then
        return sum
    end
    return tail(n - 1, sum + n)
end

local tail_there

local function tail_here(n, sum)
    if n == 0 then
        return sum
    end
    return tail_there(n - 1, sum + n)
end

function tail_there(n, sum)
    if n == 0 then
        return sum
    end
    return tail_here(n - 1, sum - n)
end

local there

local function here(n)
    if n == 0 then
        return 0
    end
    local sum = there(n - 1) --> there
    return sum + n
end

function there(n)
    if n == 0 then
        return 0
    end
    local sum = here(n - 1) --> here
    return sum - n
end

local function ackermann(m, n)
    if m == 0 then
        return n + 1
    elseif n == 0 then
        return ackermann(m - 1, 1)
    end
    return ackermann(m - 1, ackermann(m, n - 1)) --> ackermann
end

local function visit(tree)
    local sum = tree.value
    if tree.left then
        sum = sum + visit(tree.left) --> visit
    end
    if tree.right then
        sum = sum + visit(tree.right) --> visit
    end
    return sum
end

local function grow(depth)
    local tree = { value = depth }
    if depth > 0 then
        tree.left = grow(depth - 1) --> grow
        tree.right = depth % 3 > 0 and grow(depth - 1) or nil --> grow
    end
    return tree
end

local function spread(n, ...)
    if n == 0 then
        return select("#", ...)
    end
    return spread(n - 1, ...) + 1 --> spread
end

local tree = grow(10) --> grow

io.write("ready\n")
io.flush()
while true do
    local sum = up(100) --> up
    sum = sum + twice(12) --> twice
    sum = sum + tail(200, 0) --> tail
    sum = sum + tail_here(200, 0) --> tail_here, tail_there
    sum = sum + here(100) --> here
    sum = sum + ackermann(2, 5) --> ackermann
    sum = sum + visit(tree) --> visit
    sum = sum + spread(60, 1, 2, 3) --> spread
end
