-- The request's body, if there is one, is the file named after the URL. The figures are one line of JSON.

function init(args)
   if args[1] then
      local file = assert(io.open(args[1], "rb"))
      wrk.method = "POST"
      wrk.body = file:read("*a")
      file:close()
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'figures {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
      '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
