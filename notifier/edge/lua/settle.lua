-- settle: what became of push entries. KEYS: the lane's stream. ARGV: tag, group, lane, dead letters kept per reason,
-- dead letters kept ms, dead tokens kept, dead tokens kept ms, settlements (msgpack):
-- {entry id, user, notification, run ("" = no row was read), text or n = argument 8 + n (bytes), results}; a result is {kind, device, ...}:
--   d, device, seq: delivered, for the row of this seq    l, device, seq, at, "<deadline> <tries> <free> <doubts>": later
--   f, device, before, reason, seq, "<deadline> <tries> <free> <doubts>": forgotten if registered before, else tried again
--   s, device, before: taken off the list if registered before, another's now
--   b, device or "-", reason, detail: to the dead letters
-- Returns for each done | gone | again | the text of an error, and behind them {user, device, line} of devices that went.
local stream, group, lane = KEYS[1], ARGV[2], ARGV[3]
local settlements = cmsgpack.unpack(ARGV[8])
local KINDS = {d = 3, l = 5, f = 6, s = 3, b = 4}
for at, one in ipairs(settlements) do
  assert(#one == 6 and string.match(one[1], '^%d+%-%d+$') and type(one[6]) == 'table', 'settle: bad entry ' .. at)
  for _, result in ipairs(one[6]) do
    assert(KINDS[result[1]] == #result, 'settle: bad result of entry ' .. at)
  end
end
local DUE, LATER, DEVICES = 'due:' .. tag, 'later:' .. tag, 'dev:' .. tag .. ':'
local forgotten = {}

local function is_pending(id)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if not found.err then return #found > 0 end
  -- the group is gone: the entry will come again
  if string.find(found.err, 'NOGROUP', 1, true) then return false end
  error(found)
end

local function seq_of(waiting) return tonumber(string.match(waiting, '^%S+ (%d+) ')) end
local function member(user, nid, device) return 'r:' .. user .. ':' .. nid .. ':' .. device end

-- A retry that somebody else has planned for what has arrived by now.
local function delivered(user, nid, device, seq)
  local name = member(user, nid, device)
  local waiting = call('HGET', LATER, name)
  if waiting and seq_of(waiting) <= seq then
    call('ZREM', DUE, name)
    call('HDEL', LATER, name)
  end
end

-- What it stands for first: a member of `due` without it could not be woken.
local function later(user, nid, device, seq, at, rest)
  local name = member(user, nid, device)
  local waiting = call('HGET', LATER, name)
  if waiting and seq_of(waiting) > seq then
    -- a newer change of the row waits already, and will say all there is to say
    if call('ZSCORE', DUE, name) then return end
    at = now
  end
  call('HSET', LATER, name, lane .. ' ' .. int(seq) .. ' ' .. rest)
  call('ZADD', DUE, int(at), name)
end

local function trim_after(key, ms) call('XTRIM', key, 'MINID', '~', int(now - tonumber(ms))) end

-- Told before it is done, so that an error in between tells it twice and never not at all. True if it is there still:
-- its app has registered it anew since the provider was asked.
local function forget(user, device, before, reason)
  local key = DEVICES .. user
  local line = call('HGET', key, device)
  if not line then return false end
  local at_lane, registered = device_of(line)
  if registered >= before then return true end
  if reason then
    local app, provider = string.match(at_lane, '^(.*):(%a+)$')
    local dead = 'tokens:dead:' .. tag
    call('XADD', dead, 'MAXLEN', '~', ARGV[6], '*', 'v', '1', 'user', user, 'app', app, 'provider', provider,
         'device', device, 'token', string.match(line, '%["([^"]*)"') or '', 'registered', int(registered),
         'reason', reason)
    trim_after(dead, ARGV[7])
  end
  forgotten[#forgotten + 1] = {user, device, line}
  drop_devices(key, devices_of(key), {device})
  return false
end

local function bury(entry, user, nid, text, device, reason, detail)
  local key = 'dead:' .. tag .. ':' .. reason
  call('XADD', key, 'MAXLEN', '~', ARGV[4], '*', 'v', '1', 'reason', reason, 'detail', detail, 'source', nid,
       'entry', entry, 'to', user, 'raw', type(text) == 'number' and ARGV[8 + text] or text, 'lane', lane, 'device', device)
  trim_after(key, ARGV[5])
end

local function settle(id, user, nid, read_under, text, results)
  local pending, arrived = is_pending(id), false
  for _, result in ipairs(results) do
    if result[1] == 'd' then
      delivered(user, nid, result[2], result[3])
      arrived = true
    end
  end
  if not pending then return 'gone' end
  -- What was read under another run may have been lost with it: decide anew. What has arrived has arrived.
  if read_under ~= run and read_under ~= '' and not arrived then return 'again' end
  for _, result in ipairs(results) do
    local kind, device, a, b, c, d = unpack(result)
    if kind == 'l' then later(user, nid, device, a, b, c)
    elseif kind == 'f' then
      if forget(user, device, a, b) then later(user, nid, device, c, now, d) end
    elseif kind == 's' then forget(user, device, a)
    elseif kind == 'b' then bury(id, user, nid, text, device, a, b) end
  end
  if call('XACK', stream, group, id) == 1 then call('XDEL', stream, id) end
  return 'done'
end

local states = {}
for at, one in ipairs(settlements) do
  local ok, result = pcall(settle, unpack(one))
  states[at] = ok and result or (type(result) == 'table' and result.err or tostring(result))
end
return {states, forgotten}
