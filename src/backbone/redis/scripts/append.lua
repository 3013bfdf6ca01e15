-- KEYS[1] stream. ARGV: entries at which it is full (0: never), a field's name and value that an entry
-- added before carries ('' for none), how many entries to look at for it and the id of the oldest, how many
-- entries with an earlier id in that field end the search (0: none do), then fields and values to add.
-- Answers the id of the entry that carries the field already, else of a new one, else, as a number, how
-- many entries are in the way.
local name, value, left, oldest = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local from, strays = '+', tonumber(ARGV[6])

-- 64-bit numbers do not fit Lua's doubles, so digits are compared as text: the longer is larger.
local function below(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function earlier(a, b)
  local ams, aseq = string.match(a, '^(%d+)%-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)%-(%d+)$')
  if not ams or not bms then return false end
  if ams ~= bms then return below(ams, bms) end
  return below(aseq, bseq)
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
        if strays > 0 and earlier(fields[i + 1], value) then
          strays = strays - 1
          if strays == 0 then left = 0 end
        end
      end
    end
  end
  if #entries < step or left == 0 then break end
  left = left - step
  from = '(' .. entries[step][1]
end
local most = tonumber(ARGV[1])
if most > 0 then
  local length = redis.call('XLEN', KEYS[1])
  if length >= most then return length end
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 7))
