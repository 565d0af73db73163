-- What Neovim runs: a callback of libuv, a scheduled one that edits the buffer, and a function that a command calls.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function work()
    local sum = spin(1000) --> spin
    return sum
end

local function line(text)
    spin(10000) --> spin
    return text:upper()
end

function in_command()
    local sum = spin(30000) --> spin
    return sum
end

local function edit()
    local lines = vim.api.nvim_buf_get_lines(0, 0, -1, false)
    local upper = vim.tbl_map(line, lines) --> line through @
    vim.api.nvim_buf_set_lines(0, 0, -1, false, upper)
    vim.cmd("lua in_command()") --> in_command through vim.api.nvim_exec ... lua_pcall *
end

vim.api.nvim_buf_set_lines(0, 0, -1, false, { "one", "two", "three" })
local timer, idle = vim.loop.new_timer(), vim.loop.new_idle()
timer:start(0, 1, vim.schedule_wrap(edit))
idle:start(work)
io.write("ready\n")
io.flush()
