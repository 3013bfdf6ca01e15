-- KEYS[1] a device's cursors. ARGV: time to live in milliseconds.
-- Begins a generation; answers the whole hash, `gen` included.
redis.call('HINCRBY', KEYS[1], 'gen', 1)
redis.call('HSET', KEYS[1], 'ttl', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
