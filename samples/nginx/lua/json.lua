-- JSON in plain Lua: recursion over tables and a string.gsub with a callback.
local json = {}

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(char)
    return escapes[char] or string.format("\\u%04x", char:byte())
end

local function quote(text)
    return '"' .. text:gsub('[%c"\\]', escape) .. '"'
end

local encode_value

local function encode_list(list)
    local parts = {}
    for i = 1, #list do
        parts[i] = encode_value(list[i])
    end
    return "[" .. table.concat(parts, ",") .. "]"
end

local function encode_object(object)
    local parts = {}
    for key, value in pairs(object) do
        parts[#parts + 1] = quote(tostring(key)) .. ":" .. encode_value(value)
    end
    return "{" .. table.concat(parts, ",") .. "}"
end

function encode_value(value)
    local kind = type(value)
    if kind == "table" then
        if #value > 0 or next(value) == nil then
            return encode_list(value)
        end
        return encode_object(value)
    elseif kind == "string" then
        return quote(value)
    elseif kind == "number" or kind == "boolean" then
        return tostring(value)
    end
    return "null"
end

json.encode = encode_value

return json
