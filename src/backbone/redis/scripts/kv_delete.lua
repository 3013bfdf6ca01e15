-- KEYS[1] store, a hash. ARGV: key.
-- The field without a name holds how many bytes keys and values have. Answers "done".
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 'done' end
local bytes = tonumber(redis.call('HGET', KEYS[1], '') or '0') - #old - #ARGV[1]
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[1]) <= 1 then
    redis.call('DEL', KEYS[1])
else
    redis.call('HSET', KEYS[1], '', string.format('%.0f', bytes))
end
return 'done'
