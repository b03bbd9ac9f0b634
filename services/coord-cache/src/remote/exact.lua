-- Decides on one request to a bucket, by the server's clock.
--
-- KEYS[1]  the bucket
-- ARGV[1]  the time in which one request comes back, in ns
-- ARGV[2]  the time in which an empty bucket is full, in ns
-- ARGV[3]  how many requests are to be admitted, all or none
--
-- Answers -1 where they are admitted, -2 where they never will be, else after how many microseconds
-- they would be.
--
-- A bucket is kept as three numbers: the time in which it is full again (ns), the server's time at
-- which that was so (microseconds), and the time in which it would be full if it were empty (ns).
-- That is exact where the moment at which it is full is not: numbers here have 53 bits, too few for
-- nanoseconds since 1970. And where the clock is set back, the bucket is filled on from there.
local interval, depth, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local missing, is_moved = 0, false
local kept = redis.call('GET', KEYS[1])
if kept and #kept == 24 then
    local was, at, deep = struct.unpack('<ddd', kept)
    is_moved = now < at
    missing = was - math.max(0, now - at) * 1000
    if missing < 0 then
        missing = 0
    end
    -- Of another rule than this one: as full, in proportion.
    if deep ~= depth and deep > 0 then
        missing = missing * depth / deep
        is_moved = true
    end
end
local function keep()
    redis.call('SET', KEYS[1], struct.pack('<ddd', missing, now, depth), 'PX', math.ceil(missing / 1000000))
end
local cost = count * interval
if cost > depth then
    return -2
end
local wait = missing + cost - depth
if wait > 0 then
    -- Else it would go on filling from where it was: by the old clock, or at the old rate.
    if is_moved then
        keep()
    end
    return math.ceil(wait / 1000)
end
missing = missing + cost
keep()
return -1
