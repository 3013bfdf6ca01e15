-- KEYS[1] stream. ARGV: entries at which it is full (0: never), a field's name and value that an entry
-- added before carries ('' for none), how many entries to look at for it and the id of the oldest, the
-- ingress entry that has to be there already ('' for none), then fields and values to add.
-- Answers the id of the entry that carries the field already, else of a new one; as a number, how many
-- entries are in the way; nothing where that ingress entry is not there.
local most, name, value, previous = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[6]
local left, oldest, from, step = tonumber(ARGV[4]), ARGV[5], '+', 1

-- Whether one id comes before another.
local function before(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if not ms or not other_ms then return false end
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end

local latest
-- In growing steps: what is looked for is mostly at the end, or the limit of age comes soon.
while name ~= '' and left > 0 do
  step = math.min(left, step)
  local entries = redis.call('XREVRANGE', KEYS[1], from, oldest, 'COUNT', step)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    for i = 1, #fields, 2 do
      if fields[i] == name then
        if fields[i + 1] == value then return entry[1] end
        -- A stream gets its ingress entries in their order: before an earlier one there is no later one.
        if name == 'in' and not latest and before(fields[i + 1], value) then latest = fields[i + 1] end
      end
    end
    if latest then break end
  end
  if latest or #entries < step then break end
  left = left - step
  from = '(' .. entries[step][1]
  step = math.min(step * 10, 100)
end
if previous ~= '' and (not latest or before(latest, previous)) then return false end
if most > 0 then
  local length = redis.call('XLEN', KEYS[1])
  if length >= most then return length end
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 7))
