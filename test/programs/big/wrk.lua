-- For wrk: every answer must be 200 with the text `hello`; prints how many were not, and wrk's own errors.
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() bad, good = 0, 0 end
function response(status, headers, body)
    if status == 200 and body == "hello\n" then good = good + 1 else bad = bad + 1 end
end
function done(summary)
    local good, bad, e = 0, 0, summary.errors
    for _, thread in ipairs(threads) do
        good = good + thread:get("good")
        bad = bad + thread:get("bad")
    end
    print(good > 0 and "served" or "nothing", bad, e.connect, e.read, e.write, e.status, e.timeout)
end
