-- One of several VMs of a program, each with a function of its own; its number is the first argument.
--: start step
--: seen step > even > spin
--: seen step > odd > spin
--: seen step > even > litter
--: seen step > odd > litter
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

-- Keeps the garbage collector busy, also from compiled code.
local function litter(n)
    local list
    for i = 1, n do
        list = i % 64 > 0 and { list, i } or nil
    end
    return list
end

local number = ...

local function even(n)
    local sum = spin(n) --> spin
    local list = litter(n) --> litter
    return sum, list
end

local function odd(n)
    local sum = spin(n) --> spin
    local list = litter(n) --> litter
    return sum, list
end

-- Called by the program again and again.
function step()
    if number % 2 == 0 then
        local sum = even(3000) --> even
        return sum
    end
    local sum = odd(3000) --> odd
    return sum
end
