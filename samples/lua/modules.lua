-- require inside functions: preloaded modules, a searcher of its own, modules that require others, one that fails.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function load_leaf(name)
    spin(100) --> spin
    return { name = name }
end

local function load_branch(name)
    local leaf = require("leaf") --> load_leaf through require
    spin(100) --> spin
    return { name = name, leaf = leaf }
end

local function load_broken(name)
    spin(100) --> spin
    error("broken")
end

local function load_found(name)
    spin(100) --> spin
    return { name = name }
end

local function search(name)
    spin(100) --> spin
    return name == "found" and load_found or "\n\tnot found by the searcher"
end

package.preload.leaf = load_leaf
package.preload.branch = load_branch
package.preload.broken = load_broken
table.insert(package.loaders or package.searchers, 2, search)

local function forget(...)
    for i = 1, select("#", ...) do
        package.loaded[select(i, ...)] = nil
    end
end

local function use_preloaded()
    forget("leaf", "branch") --> forget
    local branch = require("branch") --> load_branch through require
    return branch.leaf
end

local function use_found()
    forget("found") --> forget
    local found = require("found") --> search through require, load_found through require
    return found
end

local function use_broken()
    forget("broken") --> forget
    local ok = pcall(require, "broken") --> load_broken through pcall require
    return ok
end

local function use_loaded()
    for _ = 1, 10 do
        local leaf = require("leaf") --> load_leaf through require
    end
    return spin(100) --> spin
end

io.write("ready\n")
io.flush()
while true do
    use_preloaded() --> use_preloaded
    use_found() --> use_found
    use_broken() --> use_broken
    local sum = use_loaded() --> use_loaded, spin
end
