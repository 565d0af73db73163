-- A report: rows come from a coroutine, figures from a loop that LuaJIT compiles.
local catalog = require "catalog"
local json = require "json"

local report = {}

local function rows()
    return coroutine.wrap(function()
        for _, item in ipairs(catalog.all()) do
            coroutine.yield(item)
        end
    end)
end

-- Price after months of discounts.
local function forecast(price, months)
    local value = price
    for month = 1, months do
        value = value * 0.97 + month % 3
    end
    return value
end

function report.totals()
    local totals = { items = 0, stock = 0, value = 0 }
    for item in rows() do
        totals.items = totals.items + 1
        totals.stock = totals.stock + item.stock
        totals.value = totals.value + forecast(item.price, 240)
    end
    return totals
end

function report.handle()
    local ok, totals = xpcall(report.totals, debug.traceback)
    if not ok then
        ngx.log(ngx.ERR, totals)
        return ngx.exit(ngx.HTTP_INTERNAL_SERVER_ERROR)
    end
    ngx.say(json.encode(totals))
end

return report
