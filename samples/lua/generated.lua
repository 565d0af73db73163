-- Code generated at run time: loaded again and again, each time as a new function, under several chunk names.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

-- The text of the chunk is that of these functions, taken out of this file: where they are in it they are in the chunk.
local number, first = 1, debug.getinfo(1, "l").currentline + 2

local function generated_leaf(n)
    return spin(n) + number --> spin
end

local function generated(n)
    local sum = generated_leaf(n) --> generated_leaf
    return sum
end

-- return generated(20), generated --> generated
local last = debug.getinfo(1, "l").currentline - 2
local lines = {}
for line in io.lines(debug.getinfo(1, "S").source:sub(2)) do
    lines[#lines + 1] = #lines + 1 >= first and #lines < last and line or ""
end
lines[first - 1] = "local spin, number = ..."
lines[last + 1] = "return generated(20), generated"
local text = table.concat(lines, "\n", 1, last + 1)
local source = debug.getinfo(1, "S").source
local names = { source, (source:gsub("([^/@]+)$", "./%1")) }
local loading = loadstring or load

-- The chunk has its name from a file, which makes it a `main chunk` too.
local function load_and_run(number)
    local chunk = assert(loading(text, names[number % #names + 1]))
    local sum, again = chunk(spin, number) --> main chunk
    return sum + again(20) --> generated
end

local function in_pieces(number)
    local at = 0
    local function next_piece()
        at = at + 100
        return text:sub(at - 99, at)
    end
    local chunk = assert(load(next_piece, source)) --> next_piece through load ...
    local sum = chunk(spin, number) --> main chunk
    return sum
end

local function often(number)
    local chunk = assert(loading(text, source))
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
