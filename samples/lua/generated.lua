-- Code generated at run time: loaded again and again, each time as a new function, under several chunk names.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

-- The text of a chunk, which begins in the line that `line` says. Loaded behind as many empty lines, its functions are where
-- this file has them.
local line = debug.getinfo(1, "l").currentline + 1
local text = [[
local spin, number = ...

local function generated_leaf(n)
    return spin(n) + number --> spin
end

local function generated(n)
    local sum = generated_leaf(n) --> generated_leaf
    return sum
end

return generated(20), generated --> generated
]]
local padded = ("\n"):rep(line) .. text
local source = debug.getinfo(1, "S").source
local names = { source, "@/generated/" .. source:match("[^/@]+$") }
local loading = loadstring or load

-- The chunk has its name from a file, which makes it a `main chunk` too.
local function load_and_run(number)
    local chunk = assert(loading(padded, names[number % #names + 1]))
    local sum, again = chunk(spin, number) --> main chunk
    return sum + again(20) --> generated
end

local function in_pieces(number)
    local at = 0
    local function next_piece()
        at = at + 100
        return padded:sub(at - 99, at)
    end
    local chunk = assert(load(next_piece, source)) --> next_piece through load ...
    local sum = chunk(spin, number) --> main chunk
    return sum
end

local function often(number)
    local chunk = assert(loading(padded, source))
    local sum = 0
    for _ = 1, 100 do
        local more = chunk(spin, number) --> main chunk
        sum = sum + more
    end
    return sum
end

io.write("ready\n")
io.flush()
while true do
    for number = 1, 10 do
        load_and_run(number) --> load_and_run
        in_pieces(number) --> in_pieces
    end
    often(7) --> often
end
