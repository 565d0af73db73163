-- Chunks with names that are made to break output formats.
local names = {
    "@a;b 42",
    "@line one\nline two 7\n",
    "=\27[31mred\7",
    "@<script>alert(1)</script>&\"'",
    "@invalid \255\254 utf8",
    "return (...) -- source text as a name; with ; and\nlines",
    "@" .. ("long"):rep(2000),
    "=",
    "@looks_like_kernel_[k]",
}
local body = [[
local n = ...
local sum = 0
for i = 1, n do
    sum = sum + i % 7
end
return sum
]]

local chunks = {}
for i, name in ipairs(names) do
    chunks[i] = assert(loadstring(body, name))
end

io.write("ready\n")
io.flush()
while true do
    for i = 1, #chunks do
        chunks[i](1000)
    end
end
