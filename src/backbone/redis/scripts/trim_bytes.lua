-- KEYS[1] stream. ARGV: bytes it may take, how many entries may go at once.
-- Trims it to about so many bytes; answers how many entries went.
local bytes = redis.call('MEMORY', 'USAGE', KEYS[1])
local most = tonumber(ARGV[1])
if not bytes or bytes <= most then return 0 end
-- By the mean of its entries: exact enough for a limit that is looked at again and again.
local keep = math.floor(redis.call('XLEN', KEYS[1]) * most / bytes)
return redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', keep, 'LIMIT', ARGV[2])
