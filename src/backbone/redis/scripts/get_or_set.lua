-- KEYS[1] a string. ARGV: the value to store where there is none. Answers what is stored.
local value = redis.call('GET', KEYS[1])
if value then return value end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
