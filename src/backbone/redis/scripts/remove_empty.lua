-- KEYS[1] stream. Removes it if it has neither an entry nor a group; answers whether it did.
if redis.call('XLEN', KEYS[1]) > 0 or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if #redis.call('XINFO', 'GROUPS', KEYS[1]) > 0 then return 0 end
return redis.call('DEL', KEYS[1])
