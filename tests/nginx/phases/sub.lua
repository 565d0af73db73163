-- What makes the response to a subrequest.
local sum = app.sub() --> sub
ngx.print(sum)
