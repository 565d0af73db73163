-- xpcall: handlers written in Lua and in C, handlers that call and catch, and errors in handlers.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function failing(n)
    spin(n) --> spin
    error("failed") --> plain_handler through error ..., catching_handler through error ..., failing_handler through error ...
end

local function between(n)
    local sum = failing(n) --> failing
    return sum
end

local function working(n)
    local sum = spin(n) --> spin
    return sum
end

local function plain_handler(reason)
    spin(30) --> spin
    return reason
end

local function catching_handler(reason)
    local ok = pcall(between, 30) --> between through pcall
    return ok
end

local function failing_handler(reason)
    spin(30) --> spin
    error("failed again") --> failing_handler through error ...
end

local function handled()
    local ok, reason = xpcall(between, plain_handler, 30) --> between through xpcall
    return not ok and reason
end

local function traced()
    local ok, reason = xpcall(between, debug.traceback, 30) --> between through xpcall
    return not ok and reason
end

local function caught_in_handler()
    local ok, reason = xpcall(between, catching_handler, 30) --> between through xpcall
    return not ok and reason
end

local function failed_in_handler()
    local ok, reason = xpcall(between, failing_handler, 30) --> between through xpcall
    return not ok and reason
end

local function not_failed()
    local ok, sum = xpcall(working, plain_handler, 30) --> working through xpcall
    return ok and sum
end

local function nested()
    local ok, sum = xpcall(not_failed, debug.traceback) --> not_failed through xpcall
    ok, sum = pcall(handled) --> handled through pcall
    return ok and sum
end

io.write("ready\n")
io.flush()
while true do
    handled() --> handled
    traced() --> traced
    caught_in_handler() --> caught_in_handler
    failed_in_handler() --> failed_in_handler
    not_failed() --> not_failed
    nested() --> nested
end
