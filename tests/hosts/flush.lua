-- Run before a script: has all traces thrown away at every tick of LuaJIT's own profiler, so that they are compiled again and again.
local function flush_traces()
    jit.flush()
end

require("jit.profile").start("fi1", flush_traces)
