-- One of several VMs of a program, each with a function of its own; its number is the first argument.
--: start step
--: seen step > even > spin
--: seen step > odd > spin
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local number = ...

local function even(n)
    local sum = spin(n) --> spin
    return sum
end

local function odd(n)
    local sum = spin(n) --> spin
    return sum
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
