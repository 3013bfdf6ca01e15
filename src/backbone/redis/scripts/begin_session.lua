-- KEYS[1] a device's cursors. ARGV: generation, its session.
-- Notes the session where the generation is the latest; answers the one that was noted before.
local known = redis.call('HMGET', KEYS[1], 'gen', 'session')
if known[1] == ARGV[1] then redis.call('HSET', KEYS[1], 'session', ARGV[2]) end
return known[2]
