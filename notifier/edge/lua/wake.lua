-- wake: what has come due goes back to its lane, a part at a time. ARGV: tag, publish command, entries at most, how
-- many in front to leave out, dead letters kept per reason, dead letters kept ms.
-- By the server's clock: processes may disagree, and one that is ahead would send too early for everybody.
-- Returns {moved, left, passed over, buried, error or "", how many in front have been passed over by now}; passed over is
-- what a newer process has put there, which knows what it means, and what failed: it stays. XADD before ZREM: an error
-- in between sends twice, never not at all.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function int(value) return string.format('%.0f', value) end
local tag, most, over = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
assert(most and over and tonumber(ARGV[5]) and tonumber(ARGV[6]), 'wake: bad arguments')
local DUE, LATER = 'due:' .. tag, 'later:' .. tag
-- By rank: with LIMIT all that is left out would be walked over, one by one.
local due = redis.call('ZCOUNT', DUE, '-inf', int(now))
if due < over then over = 0 end  -- others have taken away what was in front
local found = due > over and redis.call('ZRANGE', DUE, over, math.min(due, over + most) - 1) or {}
local rung, moved, passed, buried, fault = {}, 0, 0, 0, ''

local function bury(user, nid, device, value)
  local key = 'dead:' .. tag .. ':unreadable'
  redis.call('XADD', key, 'MAXLEN', '~', ARGV[5], '*', 'v', '1', 'reason', 'unreadable',
             'detail', 'what waited to be sent later is not what we write', 'source', nid, 'entry', '', 'to', user,
             'raw', value, 'lane', '', 'device', device)
  redis.call('XTRIM', key, 'MINID', '~', int(now - tonumber(ARGV[6])))
end

local function wake(name, value)
  local user, nid, device = string.match(name, '^r:([^:]+):(.+):([^:]+)$')
  if not user or (value and is_foreign(value)) then return 'passed' end
  local done = 'moved'
  if value then  -- else an error has left the member alone: what it stood for is gone where it had to
    local lane, _, rest = waiting_of(value)
    if lane then
      local deadline, counts = string.match(rest, '^(%d+) (.+)$')
      local text = '1 ' .. user .. ' ' .. nid .. ' ' .. deadline .. ' ' .. device .. ' ' .. counts
      redis.call('XADD', 'push:' .. tag .. ':' .. lane, '*', 'push', text)
      rung[lane] = true
    else
      bury(user, nid, device, value)
      done = 'buried'
    end
  end
  redis.call('HDEL', LATER, name)  -- before ZREM: what is left in `due` alone is found and removed here
  redis.call('ZREM', DUE, name)
  return done
end

if #found > 0 then
  local meant = redis.call('HMGET', LATER, unpack(found))
  for at, name in ipairs(found) do
    local ok, done = pcall(wake, name, meant[at])
    if not ok then
      fault = type(done) == 'table' and done.err or tostring(done)
    end
    if not ok or done == 'passed' then passed = passed + 1
    elseif done == 'moved' then moved = moved + 1
    else buried = buried + 1 end
  end
end
local lanes = {}
for lane in pairs(rung) do lanes[#lanes + 1] = lane end
if #lanes > 0 then redis.call(ARGV[2], 'lanes:' .. tag, table.concat(lanes, ' ')) end
return {moved, redis.call('ZCARD', DUE), passed, buried, fault, over + passed}
