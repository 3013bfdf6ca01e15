-- KEYS[1] stream. ARGV: idempotency key, entries to look at, then fields and values to add.
-- Answers the id of the entry that carries the key already, else of a new one.
local recent = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[2])
for _, entry in ipairs(recent) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'id' and fields[i + 1] == ARGV[1] then
      return entry[1]
    end
  end
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
