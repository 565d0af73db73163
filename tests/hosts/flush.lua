-- Run before a script: throws all traces away whenever the interpreter has run a hundred thousand instructions, so that they are
-- compiled again and again. Without side traces the interpreter runs between two traces: a program that is compiled whole would
-- call no hook.
local function flush_traces()
    jit.flush()
end

jit.opt.start("maxside=0")
debug.sethook(flush_traces, "", 100000)
