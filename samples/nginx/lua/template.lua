-- An HTML template: string.gsub with callbacks, and ngx.re, which comes with lua-resty-core.
local template = {}

local layout = [[
<html><head><title>{title}</title></head><body><h1>{title}</h1>
<table>{rows}</table><p>{count} items, {total} in all</p></body></html>
]]

local function html(text)
    return (ngx.re.gsub(text, "[<>&]", function(found)
        return "&#" .. string.byte(found[0]) .. ";"
    end, "jo"))
end

local function row(item)
    return "<tr><td>" .. html(item.name) .. "</td><td>" .. string.format("%.2f", item.price) .. "</td></tr>"
end

local function fill(values)
    return (layout:gsub("{(%a+)}", function(name)
        return values[name] or error("no value for " .. name)
    end))
end

function template.page(title, items)
    local rows, total = {}, 0
    for i, item in ipairs(items) do
        rows[i] = row(item)
        total = total + item.price
    end
    return fill { title = html(title), rows = table.concat(rows), count = tostring(#items), total = tostring(total) }
end

return template
