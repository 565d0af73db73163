local function in_file() --> in_file
    local sum = 0
    for i = 1, 3000 do
        sum = sum + i % 7
    end
    return sum
end

local sum = in_file()
return
