-- What Python calls, and what calls Python.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local M = {}

function M.row(value)
    local sum = spin(value) --> spin
    return sum
end

function M.batch(each)
    spin(20000) --> spin
    local sums = each({ 10000, 20000, 30000 }) --> row through ... &lua_pcall
    return sums
end

return M
