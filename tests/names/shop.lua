-- A module. Behind `-->` stands the name that each function must have, nothing for those without one.
local M = { handlers = {}, only = {}, api = { v1 = {} } }
M.__index = M

local function burn() --> burn
    local sum = 0
    for i = 1, 400 do
        sum = sum + i % 7
    end
    return sum
end

-- The walk through the modules finds it, and says more than the source: whose it is.
function M.public() --> shop.public
    return burn() + 1
end

function M:method() --> shop.method
    return burn() + 1
end

M.api.v1.get = function() --> shop.api.v1.get
    return burn() + 1
end

-- It is stored under two names that are not its own.
local function helper() --> helper
    return burn() + 1
end
M.first_alias = helper
M.second_alias = helper
a_global_alias = helper

-- They happen to be stored under a name when somebody looks.
local function request(id) --> request
    M.handlers["handler_" .. id] = function() -->
        return burn() + 1
    end
    local sum = M.handlers["handler_" .. id]()
    M.handlers["handler_" .. id - 1] = nil
    return sum
end

for _, key in ipairs { "computed" } do
    M.only[key] = function() -->
        return burn() + 1
    end
end

-- What they wrap has a name inside of them, which is not its own.
local function wrap(inner)
    return function(...) -->
        return inner(...) + 1
    end
end
M.wrapped = wrap(function() -->
    return burn() + 1
end)
M.wrapped_again = wrap(helper)

-- The number of the request is in no name.
function M.serve(id) --> shop.serve
    local object = setmetatable({}, M)
    return M.public() + object:method() + M.api.v1.get() + M.first_alias() + M.second_alias() + a_global_alias() + request(id)
        + M.only.computed() + M.wrapped() + M.wrapped_again()
end

return M
