-- KEYS[1] a device's cursors. ARGV: time to live in milliseconds.
-- Begins a generation; answers the whole hash, `gen` included. A generation is never below the
-- server's clock, so that a device whose hash was lost does not count from 1 again, where a writer of
-- before could pass for the latest.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local next = (tonumber(redis.call('HGET', KEYS[1], 'gen')) or 0) + 1
redis.call('HSET', KEYS[1], 'gen', string.format('%.0f', math.max(next, now)))
redis.call('HSET', KEYS[1], 'ttl', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
