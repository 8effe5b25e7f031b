-- tidy: buries push entries that nobody has taken till long after their deadline. A lane that is read by nobody, as one
-- whose app was taken out of every configuration, would fill for ever; so it holds what may still be sent, and no more.
-- ARGV: tag, group, ms after the deadline, entries of a lane at most, dead letters kept per reason, dead letters kept ms.
-- Returns {buried, 1 = there may be more}. Whoever reads a lane has settled such an entry long before.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function int(value) return string.format('%.0f', value) end
local tag, group, grace, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
assert(grace and most and tonumber(ARGV[5]) and tonumber(ARGV[6]), 'tidy: bad arguments')
local dead, buried, more = 'dead:' .. tag .. ':expired', 0, 0

local function text_of(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'push' then return fields[at + 1] end
  end
  return ''
end

local function bury(lane, stream, id, text)
  local user, nid, deadline, device = string.match(text, '^1 (%S+) (%S+) (%d+) (%S+) ')
  if not user or tonumber(deadline) + grace > now then return 0 end
  redis.call('XADD', dead, 'MAXLEN', '~', ARGV[5], '*', 'v', '1', 'reason', 'expired',
             'detail', 'nobody has read its lane until long after its deadline', 'source', nid, 'entry', id, 'to', user,
             'raw', text, 'lane', lane, 'device', device)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  return 1
end

for _, lane in ipairs(redis.call('SMEMBERS', 'pushes:' .. tag)) do
  local stream = 'push:' .. tag .. ':' .. lane
  local found = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', most)
  local gone = 0
  for _, entry in ipairs(found.err and {} or found) do  -- a key of another type is told by who reads the lane
    gone = gone + bury(lane, stream, entry[1], text_of(entry[2]))
  end
  if gone == most then more = 1 end
  buried = buried + gone
end
if buried > 0 then redis.call('XTRIM', dead, 'MINID', '~', int(now - tonumber(ARGV[6]))) end
return {buried, more}
