-- KEYS[1] stream. ARGV: group, consumer, the consumer of what was given back, how many entries, after how
-- many milliseconds a held one is stale, 1 to look for stale ones.
-- Answers how many stale ones were found, then for each entry its delivery count and the entry.
-- A delivery count is attempts + 1, and only `keep` and `give_back` set it: to be claimed is no attempt.
local group, consumer, back, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local work, seen = { 0 }, {}

local function claim(rows)
  for _, row in ipairs(rows) do
    local id = row[1]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if seen[id] then
      -- What was given back counts as stale at once where nothing may be held at all.
    elseif entry then
      seen[id] = true
      redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'JUSTID')
      work[#work + 1] = row[4]
      work[#work + 1] = entry
      most = most - 1
    else
      redis.call('XACK', KEYS[1], group, id)
    end
  end
  return #rows
end

local returned = redis.pcall('XPENDING', KEYS[1], group, '-', '+', most, back)
if returned.err then
  if string.sub(returned.err, 1, 7) ~= 'NOGROUP' then return returned end
  redis.call('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM')
else
  claim(returned)
  if most > 0 and ARGV[6] == '1' then
    work[1] = claim(redis.call('XPENDING', KEYS[1], group, 'IDLE', ARGV[5], '-', '+', most))
  end
end
if most > 0 then
  local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', KEYS[1], '>')
  for _, entry in ipairs(new and new[1][2] or {}) do
    work[#work + 1] = 1
    work[#work + 1] = entry
  end
end
return work
