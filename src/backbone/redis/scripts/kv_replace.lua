-- KEYS[1] store, a hash. ARGV: key, value, keys it may have, bytes it may have, 1 where a value is expected, that
-- value, a key to mark the change with, its value, the last moment at which this may be done, in milliseconds.
-- The field without a name holds how many bytes keys and values have. Answers "done", "quota", "changed" or "late".
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[9]) then return 'late' end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[5] == '1' then
    if old ~= ARGV[6] then return 'changed' end
elseif old then
    return 'changed'
end
local used = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local bytes = used + #ARGV[2] + (old and -#old or #ARGV[1])
local keys = math.max(redis.call('HLEN', KEYS[1]) - 1, 0)
if bytes > tonumber(ARGV[4]) and bytes > used then return 'quota' end
if not old and keys >= tonumber(ARGV[3]) then return 'quota' end
local mark = redis.call('HGET', KEYS[1], ARGV[7])
bytes = bytes + #ARGV[8] + (mark and -#mark or #ARGV[7])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], ARGV[7], ARGV[8], '', string.format('%.0f', bytes))
return 'done'
