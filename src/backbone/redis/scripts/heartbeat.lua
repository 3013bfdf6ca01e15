-- KEYS[1] hash of the nodes. ARGV: node, its record, lease in milliseconds.
-- Writes the record with this server's time; answers node, record, node, record... of those seen
-- within the lease, and removes those not seen for ten leases.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({ record = ARGV[2], seen_ms = now }))
local lease = tonumber(ARGV[3])
local all = redis.call('HGETALL', KEYS[1])
local alive = {}
for i = 1, #all, 2 do
  local ok, node = pcall(cjson.decode, all[i + 1])
  local age = math.huge
  if ok and type(node) == 'table' and type(node.seen_ms) == 'number' then age = now - node.seen_ms end
  if age <= lease and type(node.record) == 'string' then
    alive[#alive + 1] = all[i]
    alive[#alive + 1] = node.record
  elseif age > 10 * lease then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return alive
