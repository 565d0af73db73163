-- What nginx.conf beside this runs in its phases, and what these start: timers, light threads and coroutines, each of which
-- lua-nginx-module resumes from C, so that nothing of what has started them is on their stacks.
local balancer = require "ngx.balancer"
local session = require "ngx.ssl.session"

local M = {}

local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function tick()
    spin(100000) --> spin
end

-- In each worker, before the first request.
function M.start()
    assert(ngx.timer.every(0.005, tick))
end

function M.balance(peer)
    spin(5000) --> spin
    assert(balancer.set_current_peer(peer))
end

function M.client_hello()
    local sum = spin(5000) --> spin
    return sum
end

function M.certificate()
    local sum = spin(5000) --> spin
    return sum
end

-- By their identifiers. Each resumes one connection only, so that new ones are made all the time.
local sessions = {}

function M.fetch()
    spin(5000) --> spin
    local id = assert(session.get_session_id())
    if sessions[id] then
        assert(session.set_serialized_session(sessions[id]))
        sessions[id] = nil
    end
end

function M.store()
    spin(5000) --> spin
    sessions[assert(session.get_session_id())] = assert(session.get_serialized_session())
end

function M.set()
    local sum = spin(5000) --> spin
    return sum
end

function M.rewrite()
    spin(5000) --> spin
    ngx.sleep(0.001)
    spin(5000) --> spin
end

function M.access()
    local sum = spin(5000) --> spin
    return sum
end

function M.sub()
    local sum = spin(5000) --> spin
    return sum
end

local function light(n)
    spin(n) --> spin
    ngx.sleep(0.001)
    spin(n) --> spin
    return n
end

local function produce(n)
    for _ = 1, 2 do
        spin(n) --> spin
        coroutine.yield(n)
    end
end

local function in_time(premature)
    local sum = spin(5000) --> spin
    return sum and premature
end

function M.content()
    local part = ngx.location.capture("/sub").body .. ngx.location.capture("/proxied").body
    part = part .. ngx.location.capture("/encrypted").body
    local thread = assert(ngx.thread.spawn(light, 5000))
    local producer = coroutine.create(produce)
    coroutine.resume(producer, 5000)
    coroutine.resume(producer)
    spin(5000) --> spin
    ngx.thread.wait(thread)
    assert(ngx.timer.at(0, in_time))
    ngx.say(part) --> header_filter_by_lua through ... lua_pcall, body_filter_by_lua through ... lua_pcall
end

function M.header_filter()
    spin(5000) --> spin
    ngx.header["X-Part"] = "header"
end

function M.body_filter()
    spin(5000) --> spin
    ngx.arg[1] = ngx.arg[1] .. "."
end

function M.log()
    local sum = spin(5000) --> spin
    return sum
end

return M
