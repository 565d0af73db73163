-- string.gsub with callbacks, also nested, through __index, and failing; string.gmatch.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local text = ("some words to be replaced by themselves "):rep(4)

local function same(word)
    return word
end

local function slowly(word)
    spin(20) --> spin
    return word:upper()
end

local function nested(word)
    return (string.gsub(word, "[aeiou]", slowly)) --> slowly through string.gsub, slowly through string.gsub ...
end

local function failing(word)
    spin(20) --> spin
    error("no replacement")
end

local function on_index(words, word)
    spin(20) --> spin
    return word .. "s"
end

local words = setmetatable({}, { __index = on_index })

local function replace_quickly()
    local replaced = text:gsub("%a+", same) --> same through string.gsub, same through string.gsub ...
    return replaced
end

local function replace_slowly()
    local replaced = text:gsub("%a+", slowly) --> slowly through string.gsub, slowly through string.gsub ...
    return replaced
end

local function replace_in_replacement()
    local replaced = text:gsub("%a+", nested) --> nested through string.gsub, nested through string.gsub ...
    return replaced
end

local function replace_by_table()
    local replaced = text:gsub("%a+", words) --> on_index through string.gsub ...
    return replaced
end

local function fail_in_replacement()
    local ok = pcall(string.gsub, text, "%a+", failing) --> failing through pcall string.gsub, failing through pcall string.gsub ...
    return ok
end

local function each_match()
    local length = 0
    for word in text:gmatch("%a+") do
        length = length + #word + spin(5) --> spin
    end
    return length
end

io.write("ready\n")
io.flush()
while true do
    replace_quickly() --> replace_quickly
    replace_slowly() --> replace_slowly
    replace_in_replacement() --> replace_in_replacement
    replace_by_table() --> replace_by_table
    fail_in_replacement() --> fail_in_replacement
    each_match() --> each_match
end
