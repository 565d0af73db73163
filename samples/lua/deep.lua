-- A recursion 5,000 frames deep.
--: cut descend
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function bottom()
    local sum = 0
    for i = 1, 200 do
        sum = sum + spin(1000) --> spin
    end
    return sum
end

local function descend(depth)
    if depth == 0 then
        local sum = bottom() --> bottom
        return sum
    end
    local sum = descend(depth - 1) --> descend
    return sum + 1
end

local function top()
    local sum = descend(5000) --> descend
    return sum
end

io.write("ready\n")
io.flush()
while true do
    top() --> top
end
