-- The access phase: a token is parsed under pcall and checked with a checksum, a loop of bit operations.
local bit = require "bit"

local auth = {}

local function checksum(text)
    local sum = 5381
    for round = 1, 20 do
        for i = 1, #text do
            sum = bit.bxor(bit.lshift(sum, 5), bit.rshift(sum, 3), text:byte(i), round)
        end
    end
    return sum
end

local function parse(header)
    local user, secret = header:match("^(%w+):(%x+)$")
    if not user then
        error("not a token")
    end
    return { user = user, sum = checksum(secret) }
end

function auth.check()
    local header = ngx.req.get_headers()["X-Token"]
    local ok, token = pcall(parse, header or "")
    if not ok then
        return ngx.exit(ngx.HTTP_UNAUTHORIZED)
    end
    ngx.ctx.token = token
end

return auth
