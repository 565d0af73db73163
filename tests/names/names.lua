-- Functions defined in every way that there is. Behind `-->` stands the name that each must have, nothing for those without one.
-- Each of them burns CPU time by `burn`, which is the leaf of every stack.
local function burn() --> burn
    local sum = 0
    for i = 1, 400 do
        sum = sum + i % 7
    end
    return sum
end

local run = {}
local function each_round(f)
    run[#run + 1] = f
end

-- Statements.
local function plain() --> plain
    return burn() + 1
end
each_round(plain)

function global() --> global
    return burn() + 1
end
each_round(global)

local M = { inner = { deep = {} } }
function M.dotted() --> M.dotted
    return burn() + 1
end
each_round(M.dotted)

function M.inner.deep.path() --> M.inner.deep.path
    return burn() + 1
end
each_round(M.inner.deep.path)

function M:method() --> M:method
    return burn() + 1
end
each_round(M.method)

-- Assignments.
M.assigned = function() --> M.assigned
    return burn() + 1
end
each_round(M.assigned)

M["quoted"] = function() --> M.quoted
    return burn() + 1
end
each_round(M.quoted)

local assigned_local = function() --> assigned_local
    return burn() + 1
end
each_round(assigned_local)

local forward
forward = function() --> forward
    return burn() + 1
end
each_round(forward)

-- A key that only running the code tells, and a choice.
local key = "com" .. "puted"
M[key] = function() -->
    return burn() + 1
end
each_round(M.computed)

M.chosen = M.missing or function() -->
    return burn() + 1
end
each_round(M.chosen)

-- Table constructors, nested; a list in one; a method that is called through its object.
local tree = {
    leaf = function() --> tree.leaf
        return burn() + 1
    end,
    branch = {
        ["leaf"] = function() --> tree.branch.leaf
            return burn() + 1
        end,
        list = {
            function() -->
                return burn() + 1
            end,
            function() -->
                return burn() + 2
            end,
        },
        [1 + 1] = function() -->
            return burn() + 1
        end,
    },
}
each_round(tree.leaf)
each_round(tree.branch.leaf)
each_round(tree.branch.list[1])
each_round(tree.branch.list[2])
each_round(tree.branch[2])

local object = setmetatable({}, {
    __index = function(self, field) --> __index
        return burn() + 1
    end,
    __call = function() --> __call
        return burn() + 1
    end,
})
each_round(function() -->
    return object.field + object()
end)

-- Functions that make functions: each of their closures is one function.
local function factory(n)
    burn()
    return function() -->
        return burn() + n
    end
end
each_round(factory(1))
each_round(factory(2))
M.made = factory(3)
each_round(M.made)

local function named_factory(n) --> named_factory
    burn()
    local function product() --> product
        return burn() + n
    end
    return product
end
each_round(function() -->
    return named_factory(1)() + named_factory(2)()
end)

-- One function under several names, as a value, an upvalue, a field, a global.
local original = function() --> original
    return burn() + 1
end
local alias = original
M.alias = original
another_alias = original
each_round(original)
each_round(function() -->
    return alias() + M.alias() + another_alias()
end)

-- Callbacks: what they are passed to has a name for them, they have none.
local function apply(callback) --> apply
    local function inner() --> inner
        return callback() + 1
    end
    return inner() + 1
end
each_round(function() -->
    local sum = apply(function() -->
        return burn() + 1
    end)
    return sum
end)

-- The same name twice in one file, and in one block.
do
    local function twin() --> twin
        return burn() + 1
    end
    each_round(twin)
end
local function twin() --> twin
    return burn() + 1
end
each_round(twin)

-- Several functions in one line; those with different parameters can be told apart.
local function first_of_line() return burn() + 1 end local second_of_line = function(a, b) return burn() + 2 end --> first_of_line, second_of_line
each_round(first_of_line)
each_round(second_of_line)
local same_a = function() return burn() + 1 end local same_b = function() return burn() + 2 end -->
each_round(same_a)
each_round(same_b)

-- What is no code: each of these would be found by looking for words.
--[[ local function commented() ]] local trap = "local function quoted_trap() end" .. 'function x() --' .. [[
function bracketed()
]] .. [==[ ]] function deeper() ]==] --[==[
function long_comment()
]==] local behind_traps = function() --> behind_traps
    return burn() + #trap -- function trailing()
end
each_round(behind_traps)

local a, b = 1, function() -->
    return burn() + 1
end
each_round(b)

local multi_line_head = function( --> multi_line_head
    x, y
) -- The line of a function is that of its parenthesis.
    return burn() + 1
end
each_round(multi_line_head)

-- Recursion by an upvalue, and vararg functions.
local function recursive(n) --> recursive
    if n == 0 then
        return burn()
    end
    return recursive(n - 1) + 1
end
each_round(function() -->
    return recursive(3) + 1
end)
local function variadic(...) --> variadic
    return burn() + select("#", ...)
end
each_round(function() -->
    return variadic(1, 2) + 1
end)

-- Closures that each round makes anew.
each_round(function() -->
    local function fresh() --> fresh
        return burn() + 1
    end
    local anonymous = { function() return burn() + 1 end } -->
    return fresh() + anonymous[1]()
end)

io.write("ready\n")
io.flush()
while true do
    for i = 1, #run do
        run[i]()
    end
end
