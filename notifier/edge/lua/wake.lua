-- wake: what has come due goes back to its lane, a part at a time. ARGV: tag, publish command, entries at most.
-- By the server's clock: processes may disagree, and one that is ahead would send too early for everybody.
-- Returns {moved, left}. XADD before ZREM: an error in between sends twice, never not at all.
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local tag, most = ARGV[1], ARGV[3]
local DUE, LATER = 'due:' .. tag, 'later:' .. tag
local found = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', '0', most)
local rung, moved = {}, 0
if #found > 0 then
  local meant = redis.call('HMGET', LATER, unpack(found))
  for at, name in ipairs(found) do
    local user, nid, device = string.match(name, '^r:([^:]+):(.+):([^:]+)$')
    local lane, rest, counts = string.match(user and meant[at] or '', '^(%S+) %d+ (%d+) (%d+ %d+ %d+)$')
    if lane then
      local text = '1 ' .. user .. ' ' .. nid .. ' ' .. rest .. ' ' .. device .. ' ' .. counts
      redis.call('XADD', 'push:' .. tag .. ':' .. lane, '*', 'push', text)
      rung[lane] = true
    end
    if user then  -- else a newer process has put it there, and knows what it means
      redis.call('HDEL', LATER, name)  -- before ZREM: what is left in `due` alone is found and removed here
      redis.call('ZREM', DUE, name)
      moved = moved + 1
    end
  end
end
local lanes = {}
for lane in pairs(rung) do lanes[#lanes + 1] = lane end
if #lanes > 0 then redis.call(ARGV[2], 'lanes:' .. tag, table.concat(lanes, ' ')) end
return {moved, redis.call('ZCARD', DUE)}
