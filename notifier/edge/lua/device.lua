-- device: one step of a token's way to a person, each in the slot of its own keys. KEYS: the owner of the token, or a
-- person's devices. ARGV: step, then
--   claim, user, registered, always | newer: the token is this user's now; newer: unless somebody else has it since
--   that time or a later one. Returns {who had it before or "", 1 = it is this user's, 0 = it is not}
--   release, user, registered: the same taken back, if nobody has claimed it since; returns 1 | 0
--   add, id, line, limit: into the person's devices; returns {ids and lines of those that had to go}
--   remove, id, before: out of them, if registered before (ms); returns the line that went, ""
local step, key = ARGV[1], KEYS[1]
-- "<version> <user> <registered> <who had it before, or ->". The last stays, so that a repeat after a crash still finds
-- from whose list the token must go.
local function owner_of(value)
  local user, registered, before = string.match(value or '', '^1 (%S+) (%d+) (%S+)$')
  return user, tonumber(registered), before ~= '-' and before or ''
end

if step == 'claim' then
  local user, registered, before = owner_of(redis.call('GET', key))
  -- Between people the order of the calls decides: their clocks may differ, and a phone must not stay with who had
  -- it before. Only what is brought back from a file has to give way.
  if ARGV[4] == 'newer' and user and user ~= ARGV[2] and registered >= tonumber(ARGV[3]) then return {user, 0} end
  if user ~= ARGV[2] then
    before = user or ''
  elseif registered >= tonumber(ARGV[3]) then
    return {before, 1}  -- of two registrations by one person the later one counts, in whichever order they come
  end
  redis.call('SET', key, '1 ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. (before == '' and '-' or before))
  return {before, 1}
elseif step == 'release' then
  local user, registered = owner_of(redis.call('GET', key))
  if user ~= ARGV[2] or registered ~= tonumber(ARGV[3]) then return 0 end
  return redis.call('DEL', key)
elseif step == 'remove' then
  local line = redis.call('HGET', key, ARGV[2])
  if not line then return '' end
  local _, registered = device_of(line)
  if registered >= tonumber(ARGV[3]) then return '' end
  drop_devices(key, devices_of(key), {ARGV[2]})
  return line
end

assert(step == 'add', 'device: no step ' .. step)
local id, line, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local _, added = device_of(line)
local found = devices_of(key)
if found[id] then
  local _, registered = device_of(found[id])
  if registered > added then line = found[id] end
end
found[id] = line

-- Lua's own comparison goes by the server's locale, which may differ from one server to the next.
local function before_in_bytes(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local all = {}
for name, stored in pairs(found) do
  local _, registered = device_of(stored)
  all[#all + 1] = {name, registered}
end
table.sort(all, function(a, b)
  if a[2] ~= b[2] then return a[2] < b[2] end
  return before_in_bytes(a[1], b[1])
end)
local gone, ids = {}, {}
for at = 1, #all - limit do
  ids[at] = all[at][1]
  gone[2 * at - 1], gone[2 * at] = ids[at], found[ids[at]]
  found[ids[at]] = nil
end
-- One HSET for device and lanes. Those that go come after it: a lane too many costs an entry, one missing a push.
-- The new one may be among them: the oldest goes, whenever it comes.
if found[id] then
  redis.call('HSET', key, id, line, 'lanes', lanes_of_devices(found))
else
  redis.call('HSET', key, 'lanes', lanes_of_devices(found))
end
if #ids > 0 then redis.call('HDEL', key, unpack(ids)) end
return gone
