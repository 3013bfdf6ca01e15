-- KEYS[1] store, a hash. ARGV: cursor, about how many keys. Answers the next cursor and names, and no values.
-- Before Redis 7.4 there is no NOVALUES: values are read then, and stay here.
local page = redis.pcall('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2], 'NOVALUES')
if not page.err then return page end
page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local names = {}
for at = 1, #page[2], 2 do names[#names + 1] = page[2][at] end
return {page[1], names}
