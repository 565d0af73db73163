-- The requests that wrk sends: some of each kind, in a fixed order.
local paths = {
    "/search?q=lamp", "/page", "/search?q=oak", "/report", "/search?q=", "/page", "/search?q=blue+chair",
}
local sent = 0

function request()
    sent = sent + 1
    return wrk.format("GET", paths[sent % #paths + 1], { ["X-Token"] = "reader:9f3c61" })
end
