-- KEYS[1] stream. ARGV: entries at which it is full (0: never), a field's name and value that an entry
-- added before carries ('' for none), how many entries to look at for it and the id of the oldest, then
-- fields and values to add.
-- Answers the id of the entry that carries the field already, else of a new one, else, as a number, how
-- many entries are in the way.
local name, value, left, oldest = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local from = '+'

-- Whether an entry of the ingress comes before the one that is looked for.
local function earlier(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local own_ms, own_seq = string.match(value, '^(%d+)-(%d+)$')
  if not ms or not own_ms then return false end
  if ms ~= own_ms then return tonumber(ms) < tonumber(own_ms) end
  return tonumber(seq) < tonumber(own_seq)
end

-- In steps: what is looked for is mostly near the end, or the limit of age comes soon.
while name ~= '' and left > 0 do
  local step = math.min(left, 100)
  local entries = redis.call('XREVRANGE', KEYS[1], from, oldest, 'COUNT', step)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    for i = 1, #fields, 2 do
      if fields[i] == name then
        if fields[i + 1] == value then return entry[1] end
        -- A channel gets its ingress entries in their order: before an earlier one there is no later one.
        if name == 'in' and earlier(fields[i + 1]) then left = 0 end
      end
    end
    if left == 0 then break end
  end
  if #entries < step then break end
  left = math.max(left - step, 0)
  from = '(' .. entries[step][1]
end
local most = tonumber(ARGV[1])
if most > 0 then
  local length = redis.call('XLEN', KEYS[1])
  if length >= most then return length end
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 6))
