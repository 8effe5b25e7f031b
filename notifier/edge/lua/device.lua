-- device: one step of a token's way to a person, each in the slot of its own keys. KEYS: the owner of the token, or a
-- person's devices. ARGV: step, then
--   claim, user, since: the token is this user's now. since "": registered now; else out of a file, registered at that
--     time (ms), and nothing is claimed if somebody else has had it since. Returns {who had it before or "", 1 = it is
--     this user's, 0 = it is not, when it was registered, ms}
--   release, user, registered: the same taken back, if nobody has claimed it since; returns 1 | 0
--   add, id, line, limit, stays | goes, tag, instead: into the person's devices; goes: may be the one for which there is
--     no room; instead: a device that will go for it, and takes none. Returns {id, registered, ...} of those that had to go
--   remove, id, before: out of them, if registered before (ms); returns when what went was registered, "" = nothing went
local step, key = ARGV[1], KEYS[1]
local function int(value) return string.format('%.0f', value) end
-- "<version> <user> <registered> <who had it before, or ->"; what stands here is the same in every version. The last
-- stays, so that a repeat after a crash still finds from whose list the token must go.
local function owner_of(value)
  local user, registered, before = string.match(value or '', '^%d+ (%S+) (%d+) (%S+)')
  return user, tonumber(registered), before ~= '-' and before or ''
end

if step == 'claim' then
  local user, registered, before = owner_of(redis.call('GET', key))
  -- By the server's clock: those of the processes differ, and a time that is compared with what a provider says of a
  -- token must not depend on which of them was asked.
  local clock = redis.call('TIME')
  local at = clock[1] * 1000 + math.floor(clock[2] / 1000)
  if ARGV[3] ~= '' then
    at = math.min(at, tonumber(ARGV[3]))  -- nothing has been registered in the future
    if user and user ~= ARGV[2] and registered >= at then return {user, 0, registered} end
    if user == ARGV[2] and registered >= at then return {before, 1, registered} end
  elseif user then
    at = math.max(at, registered + 1)  -- the later one counts as later, also after a clock that was set back
  end
  if user ~= ARGV[2] then before = user or '' end
  redis.call('SET', key, '1 ' .. ARGV[2] .. ' ' .. int(at) .. ' ' .. (before == '' and '-' or before))
  return {before, 1, at}
elseif step == 'release' then
  local user, registered = owner_of(redis.call('GET', key))
  if user ~= ARGV[2] or registered ~= tonumber(ARGV[3]) then return 0 end
  return redis.call('DEL', key)
elseif step == 'remove' then
  local line = redis.call('HGET', key, ARGV[2])
  if not line then return '' end
  local _, registered = device_of(line)
  if registered and registered >= tonumber(ARGV[3]) then return '' end
  drop_devices(key, devices_of(key), {ARGV[2]})
  return int(registered or 0)
end

assert(step == 'add', 'device: no step ' .. step)
local id, line, limit, stays, tag = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == 'stays', ARGV[6]
local _, added = device_of(line)
assert(added and limit, 'device: bad device')
local found = devices_of(key)
if found[id] then
  local _, registered = device_of(found[id])
  -- the later of two registrations counts, in whichever order they come; before what is in a file, that too
  if registered and (registered > added or (registered == added and not stays)) then line = found[id] end
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

local all, count = {}, 0
for name, stored in pairs(found) do
  local _, registered, ours = device_of(stored)
  if name ~= ARGV[7] then
    count = count + 1
    -- What a newer process has written, or nobody can read, is not ours to remove.
    if ours and not (stays and name == id) then all[#all + 1] = {name, registered} end
  end
end
table.sort(all, function(a, b)
  if a[2] ~= b[2] then return a[2] < b[2] end
  return before_in_bytes(a[1], b[1])
end)
local gone, ids = {}, {}
for at = 1, math.min(count - limit, #all) do
  ids[at] = all[at][1]
  gone[2 * at - 1], gone[2 * at] = ids[at], int(all[at][2])
  found[ids[at]] = nil
end
local text, lanes = lanes_of_devices(found)
-- All lanes that anybody's devices have: from here it is known which are read by nobody. First: one too many is empty.
if #lanes > 0 then redis.call('SADD', 'pushes:' .. tag, unpack(lanes)) end
-- One HSET for device and lanes. Those that go come after it: a lane too many costs an entry, one missing a push.
-- One that was brought from a file may be among them: the oldest goes, whenever it comes.
if found[id] then
  redis.call('HSET', key, id, line, 'lanes', text)
else
  redis.call('HSET', key, 'lanes', text)
end
if #ids > 0 then redis.call('HDEL', key, unpack(ids)) end
return gone
