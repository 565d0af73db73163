-- What wrk calls for each request and each response.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function path(id)
    spin(20000) --> spin
    return "/" .. id
end

local id = 0
function request()
    id = id + 1
    local where = path(id % 10) --> path
    return wrk.format("GET", where)
end

local function checked(body)
    local at = body:find("\n", 1, true)
    spin(20000) --> spin
    return at
end

function response(status, headers, body)
    local ok, at = pcall(checked, body) --> checked through pcall
    return ok and at
end
