-- Recursions 5,000 frames deep: of one function, of two, with varargs, through pcall, through a metamethod.
--: cut alone ping pong spread guarded on_index
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function bottom()
    local sum = 0
    for i = 1, 40 do
        sum = sum + spin(1000) --> spin
    end
    return sum
end

local function alone(depth)
    if depth == 0 then
        return bottom() + 1 --> bottom
    end
    return alone(depth - 1) + 1 --> alone
end

local pong

local function ping(depth)
    if depth == 0 then
        return bottom() + 1 --> bottom
    end
    return pong(depth - 1) + 1 --> pong
end

function pong(depth)
    return ping(depth - 1) + 1 --> ping
end

local function spread(depth, ...)
    if depth == 0 then
        return bottom() + select("#", ...) --> bottom
    end
    return spread(depth - 1, ...) + 1 --> spread
end

local function guarded(depth)
    if depth == 0 then
        return bottom() + 1 --> bottom
    end
    local ok, sum = pcall(guarded, depth - 1) --> guarded through pcall
    return ok and sum + 1
end

local ladder

local function on_index(object, depth)
    if depth == 0 then
        return bottom() + 1 --> bottom
    end
    return ladder[depth - 1] + 1 --> on_index
end

ladder = setmetatable({}, { __index = on_index })

io.write("ready\n")
io.flush()
while true do
    local sum = alone(5000) --> alone
    sum = sum + ping(5000) --> ping
    sum = sum + spread(5000, 1, 2) --> spread
    sum = sum + guarded(5000) --> guarded
    sum = sum + ladder[5000] --> on_index
end
