-- KEYS[1] a device's cursors. ARGV: generation, its session.
-- Answers 0 where the session goes on under a newer generation. Else 1, and it is forgotten.
local known = redis.call('HMGET', KEYS[1], 'gen', 'session')
if known[2] ~= ARGV[2] then return 1 end
if known[1] ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'session')
return 1
