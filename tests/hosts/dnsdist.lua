-- What dnsdist calls for each question.
local function spin(n)
    local sum = 0
    for i = 1, n do
        sum = sum + i % 7
    end
    return sum
end

local function allowed(name)
    local sum = spin(20000) --> spin
    return sum > 0 and name:find("example", 1, true)
end

local function answer(question)
    if not allowed(question.qname:toString()) then --> allowed
        return DNSAction.Refused, ""
    end
    return DNSAction.Spoof, "192.0.2.1"
end

return answer
