-- The goods, and a search over them: string matching, scoring, and a table.sort with a comparator.
local catalog = {}

local colours = { "red", "blue", "green", "white", "black" }
local materials = { "oak", "steel", "glass", "wool" }
local things = { "lamp", "chair", "table", "shelf", "mirror", "carpet" }

local goods = {}
for i = 1, 240 do
    local name = string.format(
        "%s %s %s", colours[i % #colours + 1], materials[i % #materials + 1], things[i % #things + 1]
    )
    goods[i] = { id = i, name = name, price = (i * 7919) % 500 + 0.99, stock = (i * 31) % 17 }
end

-- How well an item answers the words: Lua's own patterns, an interpreted inner loop.
local function score(item, words)
    local points = 0
    for i = 1, #words do
        local at = item.name:find(words[i], 1, true)
        if at then
            points = points + 10 - at % 10
        end
    end
    return points
end

local function better(a, b)
    if a.points ~= b.points then
        return a.points > b.points
    end
    return a.item.price < b.item.price
end

local function rank(words)
    local ranked = {}
    for i = 1, #goods do
        local points = score(goods[i], words)
        if points > 0 or #words == 0 then
            ranked[#ranked + 1] = { item = goods[i], points = points }
        end
    end
    table.sort(ranked, better)
    return ranked
end

-- The best `limit` items for a query.
function catalog.search(query, limit)
    local words = {}
    for word in query:gmatch("%a+") do
        words[#words + 1] = word
    end
    local found = {}
    local ranked = rank(words)
    for i = 1, math.min(limit, #ranked) do
        found[i] = ranked[i].item
    end
    return found
end

function catalog.all()
    return goods
end

return catalog
