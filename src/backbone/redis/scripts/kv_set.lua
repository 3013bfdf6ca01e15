-- KEYS[1] store, a hash. ARGV: key, value, keys it may have, bytes it may have.
-- The field without a name holds how many bytes keys and values have. Answers "done" or "quota".
local old = redis.call('HGET', KEYS[1], ARGV[1])
local used = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local bytes = used + #ARGV[2] + (old and -#old or #ARGV[1])
local keys = math.max(redis.call('HLEN', KEYS[1]) - 1, 0)
if bytes > tonumber(ARGV[4]) and bytes > used then return 'quota' end
if not old and keys >= tonumber(ARGV[3]) then return 'quota' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], '', string.format('%.0f', bytes))
return 'done'
