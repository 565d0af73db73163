# Two threads with a LuaJIT each: Lua calls back into Python, which calls Lua again.
import sys
import threading

import lupa


def work(script, prelude):
    lua = lupa.LuaRuntime()
    lua.execute(prelude)
    functions = lua.globals().dofile(script)

    def each(values):
        return lua.table_from([functions.row(value) for value in values.values()])

    while True:
        functions.batch(each)


for prelude in "jit.off()", "jit.on()":
    threading.Thread(target=work, args=(sys.argv[1], prelude)).start()
print("ready", flush=True)
