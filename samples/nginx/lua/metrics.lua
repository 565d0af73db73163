-- The log phase: counts requests in shared memory.
local json = require "json"

local metrics = {}

function metrics.count(name)
    ngx.shared.metrics:incr(name, 1, 0)
end

function metrics.show()
    local values = {}
    for _, key in ipairs(ngx.shared.metrics:get_keys()) do
        values[key] = ngx.shared.metrics:get(key)
    end
    ngx.say(json.encode(values))
end

return metrics
