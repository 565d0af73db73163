-- String buffers where the build has them, and what programs use instead: table.concat, string.format, string.rep.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local found, buffer = pcall(require, "string.buffer")

local function put(n)
    local out = buffer.new(64)
    for i = 1, n do
        out:put("part ", i, ";")
    end
    return #out:tostring()
end

local function put_formatted(n)
    local out = buffer.new()
    for i = 1, n do
        out:putf("%d:%s;", i, "part")
    end
    out:skip(10)
    return #out:get(20)
end

local function on_text(object)
    spin(10) --> spin
    return "object"
end

local object = setmetatable({}, { __tostring = on_text })

local function put_object(n)
    local out = buffer.new()
    for i = 1, n do
        out:put(object) --> on_text through ...
    end
    return #out
end

local function encode(n)
    local size = 0
    for i = 1, n do
        local bytes = buffer.encode({ i, "text", { key = i } })
        size = size + #bytes + buffer.decode(bytes)[1]
    end
    return size
end

local function concat(n)
    local parts = {}
    for i = 1, n do
        parts[i] = "part"
    end
    return #table.concat(parts, ", ")
end

local function format(n)
    local length = 0
    for i = 1, n do
        length = length + #string.format("%s %5.2f %q %x", "text", i / 7, "quoted", i)
    end
    return length
end

local function append(n)
    local text = ""
    for i = 1, n do
        text = text .. i
    end
    return #text + #("part"):rep(n)
end

io.write("ready\n")
io.flush()
while true do
    if found then
        put(60) --> put
        put_formatted(60) --> put_formatted
        put_object(10) --> put_object
        encode(10) --> encode
    end
    concat(60) --> concat
    format(20) --> format
    append(60) --> append
    local sum = spin(50) --> spin
end
