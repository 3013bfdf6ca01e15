-- KEYS[1] stream. ARGV: group, ids. They leave the group and the stream.
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
