-- Coroutines inside coroutines: resumed and wrapped, yielding across pcall, metamethods and iterators, failing, abandoned.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local create, resume, wrap, yield = coroutine.create, coroutine.resume, coroutine.wrap, coroutine.yield

local function yielding(n)
    spin(20) --> spin
    local more = yield(n)
    spin(20) --> spin
    return more
end

local function across_pcall(n)
    local ok, more = pcall(yielding, n) --> yielding through pcall
    ok, more = pcall(pcall, yielding, n) --> yielding through pcall pcall
    return ok and more
end

local function keep(reason)
    spin(20) --> spin
    return reason
end

local function failing_after_yield(n)
    yielding(n) --> yielding
    error("failed") --> keep through error ...
end

local function across_xpcall(n)
    local ok, reason = xpcall(failing_after_yield, keep, n) --> failing_after_yield through xpcall
    return ok or reason
end

local function on_index(object, key)
    local more = yielding(key) --> yielding
    return more
end

local object = setmetatable({}, { __index = on_index })

local function across_metamethod(n)
    local more = object[n] --> on_index
    return more
end

local function step(n, i)
    yielding(i) --> yielding
    if i < n then
        return i + 1
    end
end

local function across_iterator(n)
    for i in step, 3, 0 do --> step
        spin(i) --> spin
    end
end

local function failing(n)
    yielding(n) --> yielding
    error({ n })
end

local function level(depth)
    if depth == 0 then
        yielding(depth) --> yielding
        return spin(20) + 0 --> spin
    end
    local below = create(level)
    local ok, sum = resume(below, depth - 1) --> level through coroutine.resume
    yield(sum)
    ok, sum = resume(below) --> level through coroutine.resume
    return sum
end

local function wrapped_level(depth)
    if depth == 0 then
        yielding(depth) --> yielding
        return spin(20) + 0 --> spin
    end
    local below = wrap(wrapped_level)
    local sum = below(depth - 1) --> wrapped_level through *
    yield(sum)
    sum = below() --> wrapped_level through *
    return sum
end

local bodies = { across_pcall, across_xpcall, across_metamethod, across_iterator, failing, level, wrapped_level }

local function run_resumed(body)
    local thread = create(body)
    local ok = true
    while ok and coroutine.status(thread) ~= "dead" do
        ok = resume(thread, 5) --> across_pcall through coroutine.resume, across_xpcall through coroutine.resume, across_metamethod through coroutine.resume, across_iterator through coroutine.resume, failing through coroutine.resume, level through coroutine.resume, wrapped_level through coroutine.resume
    end
end

local function run_wrapped(body)
    local next_step = wrap(body)
    local ok = true
    while ok do
        ok = pcall(next_step, 5) --> across_pcall through pcall *, across_xpcall through pcall *, across_metamethod through pcall *, across_iterator through pcall *, failing through pcall *, level through pcall *, wrapped_level through pcall *
    end
end

local function abandon(body)
    local thread = create(body)
    resume(thread, 5) --> across_pcall through coroutine.resume, across_xpcall through coroutine.resume, across_metamethod through coroutine.resume, across_iterator through coroutine.resume, failing through coroutine.resume, level through coroutine.resume, wrapped_level through coroutine.resume
    spin(20) --> spin
end

io.write("ready\n")
io.flush()
while true do
    for i = 1, #bodies do
        run_resumed(bodies[i]) --> run_resumed
        run_wrapped(bodies[i]) --> run_wrapped
        abandon(bodies[i]) --> abandon
    end
end
