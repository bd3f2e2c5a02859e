-- The request's body, if there is one, is the file named after the URL; with a number after it, each request has the
-- next number where the body says {n}. The figures are one line of JSON.

function init(args)
   if args[1] then
      local file = assert(io.open(args[1], "rb"))
      wrk.method = "POST"
      wrk.body = file:read("*a")
      file:close()
   end
   local number = tonumber(args[2])
   if number then
      local body = wrk.body
      request = function()
         number = number + 1
         return wrk.format(nil, nil, nil, (body:gsub("{n}", string.format("%d", number))))
      end
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
