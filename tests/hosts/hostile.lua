-- hostile.lua LIBRARY KIND: has the library lie about the VM of this program (hostile.c).
local ffi = require("ffi")
ffi.cdef("void lie(uint64_t thread, const char *kind);")
local library = ffi.load(arg[1])

local function inner(kind)
    local thread = tostring(coroutine.running()):match("0x(%x+)")
    library.lie(tonumber(thread, 16), kind)
    return true
end

local function outer(kind)
    local result = inner(kind)
    return result
end

io.write("ready\n")
io.flush()
-- In a coroutine, so that there are two threads to follow, and the main thread stays as it is.
coroutine.resume(coroutine.create(outer), arg[2])
