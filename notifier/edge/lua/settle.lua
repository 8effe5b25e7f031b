-- settle: what became of push entries. KEYS: the lane's stream. ARGV: tag, group, lane, dead letters kept per reason,
-- dead letters kept ms, dead tokens kept, dead tokens kept ms, work at most, settlements (msgpack):
-- {entry id, user, notification, run ("" = no row was read), what a dead letter quotes: text, or n = argument 9 + n, results};
-- a result is {kind, device, ...}:
--   d, device, seq: delivered, for the row of this seq    l, device, seq, at, "<deadline> <tries> <free> <doubts>": later
--   f, device, before, reason, seq, "<deadline> <tries> <free> <doubts>": forgotten if registered before, else tried again
--   s, device, before: taken off the list if registered before, another's now
--   b, device or "-", reason, detail: to the dead letters
-- Returns for each done | gone | again | the text of an error, fewer than asked for where there is much to do: ask again
-- for the rest; and behind them {user, device, registered} of devices that went. Work is counted in calls and devices.
local stream, group, lane = KEYS[1], ARGV[2], ARGV[3]
local settlements = cmsgpack.unpack(ARGV[9])
local DUE, LATER, DEVICES = 'due:' .. tag, 'later:' .. tag, 'dev:' .. tag .. ':'
local forgotten, work = {}, tonumber(ARGV[8])
assert(work, 'settle: bad arguments')

-- Pending ones: all of the batch by one look at the stretch of the list that they come from. Who is not found there is
-- asked for alone: others may hold much in between, and a batch need not be in order.
local pending, acknowledged = {}, {}
local function find_pending()
  local first, last = settlements[1], settlements[#settlements]
  local found = redis.pcall('XPENDING', stream, group, first[1], last[1], 2 * #settlements)
  for _, one in ipairs(found.err and {} or found) do pending[one[1]] = true end
end

local function is_pending(id, arrived)
  if pending[id] ~= nil then return pending[id] end
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err and not string.find(found.err, 'NOGROUP', 1, true) then error(found) end
  if not found.err and #found > 0 then return true end
  -- Settled, or Redis does not know that it was read: the group is gone or was made again, or Redis went back in time.
  -- Then the entry comes again, and is decided anew. What has rung a phone must not, if nobody has settled it.
  return arrived and #call('XRANGE', stream, id, id) > 0
end

local function member(user, nid, device) return 'r:' .. user .. ':' .. nid .. ':' .. device end

-- What stands in `later`, by member: of all that has arrived it is fetched at once, for it is nearly always nothing.
local waiting, none_waits = {}, false
local function find_waiting()
  none_waits = call('EXISTS', LATER) == 0
  if none_waits then return end
  local names = {}
  for _, one in ipairs(settlements) do
    for _, result in ipairs(one[6]) do
      if result[1] == 'd' then names[#names + 1] = member(one[2], one[3], result[2]) end
    end
  end
  if #names == 0 then return end
  local found, none = call('HMGET', LATER, unpack(names)), true
  for at, value in ipairs(found) do
    waiting[names[at]] = value
    none = none and not value
  end
  none_waits = none
end

local function waits(name)
  if waiting[name] == nil then waiting[name] = call('HGET', LATER, name) end
  return waiting[name]
end

-- A retry that somebody else has planned for what has arrived by now.
local function delivered(user, nid, device, seq)
  if none_waits then return end
  local name = member(user, nid, device)
  local value = waits(name)
  if not value then return end
  local _, for_seq = waiting_of(value)
  if for_seq and for_seq <= seq then
    waiting[name] = nil
    call('ZREM', DUE, name)
    call('HDEL', LATER, name)
  end
end

-- What it stands for first: a member of `due` without it could not be woken.
local function later(user, nid, device, seq, at, rest)
  work = work - 2
  local name = member(user, nid, device)
  local value = waits(name)
  local _, for_seq = waiting_of(value or '')
  if value and (is_foreign(value) or (for_seq or 0) > seq) then
    -- a newer change of the row waits already, or a newer process has it: that will say all there is to say
    if call('ZSCORE', DUE, name) then return end
    at = now
  else
    none_waits, waiting[name] = false, nil
    call('HSET', LATER, name, waiting_text(lane, int(seq), rest))
  end
  call('ZADD', DUE, int(at), name)
end

local trims = {}  -- streams that have got more -> how long theirs is kept, ms

-- Puts a device on the list of those that go, if it was registered before. Told before it is done, so that an error in
-- between tells it twice and never not at all. True if it is there still: its app has registered it anew since the
-- provider was asked, or a newer process has written it, which will hear the same.
local function forget(going, user, device, before, reason)
  local line = call('HGET', DEVICES .. user, device)
  local at_lane, registered, ours = device_of(line or '')
  if not registered then return false end
  if registered >= before or not ours then return true end
  if reason then
    work = work - 3
    local app, provider = string.match(at_lane, '^(.*):(%a+)$')
    local dead = 'tokens:dead:' .. tag
    call('XADD', dead, 'MAXLEN', '~', ARGV[6], '*', 'v', '1', 'user', user, 'app', app, 'provider', provider,
         'device', device, 'token', string.match(line, '%["([^"]*)"') or '', 'registered', int(registered),
         'reason', reason)
    trims[dead] = ARGV[7]
  end
  going[#going + 1] = {user, device, int(registered)}
  return false
end

-- All of one person at once: the whole list is read for it. Told to the caller first: after an error the repeat finds
-- nothing to tell of.
local function remove(user, going)
  if #going == 0 then return end
  local ids, key = {}, DEVICES .. user
  for at, one in ipairs(going) do
    ids[at] = one[2]
    forgotten[#forgotten + 1] = one
  end
  local found, count = devices_of(key)
  work = work - 2 * count
  drop_devices(key, found, ids)
end

local function bury(entry, user, nid, text, device, reason, detail)
  work = work - 1
  local key = 'dead:' .. tag .. ':' .. reason
  call('XADD', key, 'MAXLEN', '~', ARGV[4], '*', 'v', '1', 'reason', reason, 'detail', detail, 'source', nid,
       'entry', entry, 'to', user, 'raw', type(text) == 'number' and ARGV[9 + text] or text, 'lane', lane, 'device', device)
  trims[key] = ARGV[5]
end

-- What is to be done with the devices that it did not reach.
local function write_down(id, user, nid, text, results)
  local going = {}
  for _, result in ipairs(results) do
    local kind, device, a, b, c, d = unpack(result)
    if kind == 'l' then later(user, nid, device, a, b, c)
    elseif kind == 'f' then
      if forget(going, user, device, a, b) then later(user, nid, device, c, now, d) end
    elseif kind == 's' then forget(going, user, device, a)
    elseif kind == 'b' then bury(id, user, nid, text, device, a, b) end
  end
  remove(user, going)
end

local KINDS = {d = 3, l = 5, f = 6, s = 3, b = 4}
local function settle(id, user, nid, read_under, text, results)
  work = work - 3 - #results
  local arrived, others = false, false
  for _, result in ipairs(results) do
    local kind = result[1]
    if KINDS[kind] ~= #result then error('settle: bad result of entry ' .. id, 0) end
    if kind == 'd' then
      delivered(user, nid, result[2], result[3])
      arrived = true
    else
      others = true
    end
  end
  if not is_pending(id, arrived) then return 'gone' end
  -- What was read under another run may have been lost with it: decide anew. What has arrived has arrived.
  if read_under ~= run and read_under ~= '' and not arrived then return 'again' end
  if others then write_down(id, user, nid, text, results) end
  pending[id] = false
  acknowledged[#acknowledged + 1] = id
  return 'done'
end

-- All at once, behind all that is written: after an error in between it comes again, and is written once more.
local function acknowledge(states)
  if #acknowledged == 0 then return end
  local ok, fault = pcall(call, 'XACK', stream, group, unpack(acknowledged))
  -- What is left standing by an error here is nobody's any more; tidy.lua finds it.
  if ok then return pcall(call, 'XDEL', stream, unpack(acknowledged)) end
  for at, state in ipairs(states) do
    if state == 'done' then states[at] = reason(fault) end
  end
end

-- What fails here fails once more for whom it concerns, and for nobody else.
pcall(find_pending)
pcall(find_waiting)
local states = {}
for at, one in ipairs(settlements) do
  local ok, result = pcall(settle, unpack(one))
  states[at] = ok and result or reason(result)
  if work < 0 then break end
end
acknowledge(states)
-- What is settled is told in any case: the next call trims too.
pcall(function()
  for key, ms in pairs(trims) do call('XTRIM', key, 'MINID', '~', int(now - tonumber(ms))) end
end)
return {states, forgotten}
