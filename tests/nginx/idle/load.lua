-- wrk asks for what has to be compressed.
wrk.headers["Accept-Encoding"] = "gzip"
