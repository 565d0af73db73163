-- Errors: through several levels, of every kind, raised again, in handlers, and in the handling of errors.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function raise_value()
    spin(30) --> spin
    error({ code = 7 })
end

local function raise_text()
    spin(30) --> spin
    error("text", 2)
end

local function raise_index()
    local nothing
    spin(30) --> spin
    return nothing.field
end

local function raise_arithmetic()
    local nothing
    spin(30) --> spin
    return nothing + 1
end

local function raise_call()
    local nothing
    spin(30) --> spin
    return nothing()
end

local function raise_argument()
    spin(30) --> spin
    return ("x"):rep({})
end

local function raise_assert()
    spin(30) --> spin
    assert(false, "asserted")
end

local raisers = { raise_value, raise_text, raise_index, raise_arithmetic, raise_call, raise_argument, raise_assert }

local function third_level(which)
    spin(10) --> spin
    local value = raisers[which]() --> raise_value, raise_text, raise_index, raise_arithmetic, raise_call, raise_argument, raise_assert
    return value
end

local function second_level(which)
    spin(10) --> spin
    local value = third_level(which) --> third_level
    return value
end

local function first_level(which)
    spin(10) --> spin
    local value = second_level(which) --> second_level
    return value
end

local function caught()
    local count = 0
    for which = 1, #raisers do
        local ok = pcall(first_level, which) --> first_level through pcall
        count = count + (ok and 0 or 1)
    end
    return count
end

local function raise_again(which)
    local ok, reason = pcall(first_level, which) --> first_level through pcall
    spin(10) --> spin
    error(reason, 0)
end

local function caught_twice()
    local count = 0
    for which = 1, #raisers do
        local ok = pcall(raise_again, which) --> raise_again through pcall
        count = count + (ok and 0 or 1)
    end
    return count
end

io.write("ready\n")
io.flush()
while true do
    caught() --> caught
    caught_twice() --> caught_twice
end
