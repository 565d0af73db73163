-- What nginx.conf beside this serves. Behind `-->` stands the name of each function, nothing for those without one.
local cjson = require "cjson"
local M = { pending = {} }

local words = {}
for i = 1, 300 do
    words[i] = "word " .. i * 7919
end
local text = table.concat(words, ", ")

local function spin(n) --> spin
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function regexes() --> regexes
    ngx.re.match(text, "word ([0-9]+), word 2375700", "jo")
    ngx.re.gsub(text, "[0-9]+", "<$0>", "jo")
    for found in ngx.re.gmatch(text, "[a-z]+", "jo") do
    end
    ngx.re.find(text, "nowhere", "jo")
end

local function library() --> library
    cjson.decode(cjson.encode(words))
    local cache = ngx.shared.cache
    for i = 1, 30 do
        cache:set("key", text)
        cache:get("key")
    end
    for i = 1, 10 do
        ngx.md5(text)
        ngx.escape_uri(text)
        ngx.encode_base64(text)
    end
end

-- lua-nginx-module has its own coroutines.
local function body(n) --> body
    spin(n)
    coroutine.yield(1)
    spin(n)
end

local function coroutines() --> coroutines
    local resume = coroutine.wrap(body)
    resume(2000)
    resume()
    local thread = coroutine.create(body)
    coroutine.resume(thread, 2000)
    coroutine.resume(thread)
end

local function light_threads() --> light_threads
    local thread = ngx.thread.spawn(function() -->
        spin(3000)
        ngx.sleep(0.001)
        spin(3000)
    end)
    spin(2000)
    ngx.thread.wait(thread)
end

-- What each request makes anew, and stores under its own number.
local number = 0
local function requests() --> requests
    number = number + 1
    M.pending["request_" .. number] = function() -->
        return spin(3000) + number
    end
    local handler = { on_request = function() --> handler.on_request
        return spin(3000) + number
    end }
    M.pending["request_" .. number - 3] = nil
    local sum = M.pending["request_" .. number]() + handler.on_request()
    return sum
end

function M.serve() --> api.serve
    regexes()
    library()
    coroutines()
    light_threads()
    requests()
    ngx.say(text)
end

return M
