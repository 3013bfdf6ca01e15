-- KEYS[1] store, a hash. ARGV: key, what to add, keys it may have, bytes it may have.
-- The field without a name holds how many bytes keys and values have. Answers the sum, "quota" or "number".
local old = redis.call('HGET', KEYS[1], ARGV[1])
local used = tonumber(redis.call('HGET', KEYS[1], '') or '0')
-- Twenty bytes hold any number, so that a sum is never too long once it is let in.
if not old then
    local keys = math.max(redis.call('HLEN', KEYS[1]) - 1, 0)
    if keys >= tonumber(ARGV[3]) or used + #ARGV[1] + 20 > tonumber(ARGV[4]) then return 'quota' end
end
-- The server adds: numbers of Lua are too coarse.
local sum = redis.pcall('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
if type(sum) == 'table' and sum.err then return 'number' end
local now = redis.call('HGET', KEYS[1], ARGV[1])
local bytes = used + #now + (old and -#old or #ARGV[1])
redis.call('HSET', KEYS[1], '', string.format('%.0f', bytes))
return now
