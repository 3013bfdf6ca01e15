-- KEYS[1] the epoch. ARGV: the epoch in which loss was seen, a new one.
-- Of several nodes that saw the same loss one changes the epoch and the others learn the change.
local current = redis.call('GET', KEYS[1])
if current and current ~= ARGV[1] then return current end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
