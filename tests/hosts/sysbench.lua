-- What sysbench calls again and again in each of its threads, every other of which has the JIT compiler off.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function select_row(row)
    local sum = spin(2000 + row) --> spin
    return sum
end

local function transaction(rows)
    for _ = 1, 3 do
        select_row(sysbench.rand.uniform(1, rows)) --> select_row
    end
    return rows
end

function thread_init()
    if sysbench.tid % 2 == 1 then
        jit.off()
    end
end

function event()
    transaction(100) --> transaction
end
