-- What uWSGI calls for each request; the coroutine makes the body.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function body()
    for i = 1, 3 do
        spin(10000) --> spin
        coroutine.yield("line " .. i .. "\n")
    end
end

local function run()
    spin(20000) --> spin
    return 200, { ["Content-Type"] = "text/plain" }, coroutine.wrap(body)
end

return run
