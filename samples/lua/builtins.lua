-- Library functions written in C that call back into Lua.
--: seen sort_numbers > ascending > spin
--: seen replace_words > replacement > spin
--: seen visit_all > visit > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function ascending(a, b)
    spin(20) --> spin
    return a < b
end

local numbers = {}

local function sort_numbers()
    for i = 1, 40 do
        numbers[i] = i * 7919 % 41
    end
    table.sort(numbers, ascending) --> ascending through table.sort ...
    return numbers[1]
end

local function replacement(word)
    spin(60) --> spin
    return word
end

local text = ("some words to be replaced by themselves "):rep(5)

local function replace_words()
    local replaced = string.gsub(text, "%a+", replacement) --> replacement through string.gsub, replacement through string.gsub ...
    return replaced
end


local function visit(key, value)
    spin(60) --> spin
end

local function visit_all()
    table.foreachi(numbers, visit) --> visit through table.foreachi
    return #numbers
end

io.write("ready\n")
io.flush()
while true do
    sort_numbers() --> sort_numbers
    replace_words() --> replace_words
    visit_all() --> visit_all
end
