-- KEYS[1] a device's cursors. ARGV: generation, time to live in milliseconds where the hash knows
-- none, then channel, offset, epoch and attempts of each cursor; with the attempts, after a space, may
-- stand the message that they are about.
-- Answers 0 when a newer generation owns the device, else 1.

-- 64-bit numbers do not fit Lua's doubles, so digits are compared as text: the longer is larger.
local function below(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function older(a, b)
  local ams, aseq = string.match(a, '^(%d+)%-(%d+)')
  local bms, bseq = string.match(b, '^(%d+)%-(%d+)')
  if not bms then return false end
  if ams ~= bms then return below(ams, bms) end
  return below(aseq, bseq)
end

local known = redis.call('HMGET', KEYS[1], 'gen', 'ttl')
local generation = known[1]
if generation and below(ARGV[1], generation) then return 0 end
-- A hash that expired or was lost starts again at the writer's generation.
if generation ~= ARGV[1] then redis.call('HSET', KEYS[1], 'gen', ARGV[1]) end
for i = 3, #ARGV, 4 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if not stored or not older(ARGV[i + 1], stored) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2] .. ' ' .. ARGV[i + 3])
  end
end
-- Setting an expiry costs as much as the write itself, so it waits until half of it is gone.
local ttl = tonumber(known[2] or ARGV[2])
if redis.call('PTTL', KEYS[1]) < ttl / 2 then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
