-- The next photos of a home feed: its own and those pulled from big accounts, newest first.
--
-- KEYS   feed, lock of its building
-- ARGV   where the page ends ("+" or "(ID"), how many, seconds a feed that nobody reads is kept,
--        ms a builder may take, the builder's token, prefix of the keys with an account's own photos
-- Reply  {"ready", {photo members}, {big accounts whose photos are missing}}
--        {"build"}: the feed was missing; it is marked, and the caller has the token to fill it
--        {"wait"}: somebody else fills it
--
-- A feed is a sorted set with every score 0, so that the members' own order counts: "!" (it is complete) or
-- "!building", "#ACCOUNT" (pull this one's photos), then "PHOTO:OWNER" with 19 digits of photo id. As scores the ids
-- would lose their last bits: a score is a double.
local call = redis.call
local feed, lock = KEYS[1], KEYS[2]
local upto, count = ARGV[1], tonumber(ARGV[2])

local state = call('ZRANGEBYLEX', feed, '[!', '(#', 'LIMIT', 0, 1)[1]
if state ~= '!' then
  if not call('SET', lock, ARGV[5], 'NX', 'PX', ARGV[4]) then return {'wait'} end
  -- From here on the feed is there, and whatever is posted while its builder reads PostgreSQL is added to it.
  call('ZADD', feed, 0, '!building')
  call('EXPIRE', feed, ARGV[3])
  return {'build'}
end
call('EXPIRE', feed, ARGV[3])

local last = upto == '+' and '(:' or upto
local found, missing = call('ZREVRANGEBYLEX', feed, last, '[0', 'LIMIT', 0, count), {}
local accounts = call('ZRANGEBYLEX', feed, '[#', '($')
if #accounts == 0 then return {'ready', found, missing} end

local seen = {}
for _, member in ipairs(found) do seen[member] = true end
for _, account in ipairs(accounts) do
  local id = string.sub(account, 2)
  local photos = ARGV[6] .. id
  if call('EXPIRE', photos, ARGV[3]) == 0 then
    missing[#missing + 1] = id
  else
    for _, member in ipairs(call('ZREVRANGEBYLEX', photos, last, '[0', 'LIMIT', 0, count)) do
      if not seen[member] then
        seen[member] = true
        found[#found + 1] = member
      end
    end
  end
end
table.sort(found, function(a, b) return a > b end)
for at = #found, count + 1, -1 do found[at] = nil end
return {'ready', found, missing}
