-- KEYS[1] stream. ARGV: milliseconds. Removes it if it has neither an entry nor a group and its last entry
-- came before; answers whether it did.
if redis.call('XLEN', KEYS[1]) > 0 or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local fields, info = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
local last = tonumber(string.match(info['last-generated-id'], '^%d+'))
if info.groups > 0 or last >= tonumber(ARGV[1]) then return 0 end
return redis.call('DEL', KEYS[1])
