-- KEYS[1] stream. ARGV: group, the consumer that holds the entries, the one that is to hold them, then id
-- and delivery count of each.
-- Answers the ids of those that the first still held. Whoever was paused and wakes finds others holding
-- what it held, and takes nothing back.
local group, holder, to = ARGV[1], ARGV[2], ARGV[3]
local held = {}
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  local pending = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
  if pending.err then
    -- Without its group nobody holds anything.
    if string.sub(pending.err, 1, 7) == 'NOGROUP' then return {} end
    return pending
  end
  if pending[1] and pending[1][2] == holder then
    local claimed = redis.call('XCLAIM', KEYS[1], group, to, 0, id, 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    if claimed[1] then held[#held + 1] = id end
  end
end
return held
