-- tidy: settles push entries that nobody has taken till long after their deadline. A lane that is read by nobody, as one
-- whose app was taken out of every configuration, would fill for ever; so it holds what may still be sent, and no more.
-- ARGV: tag, group, ms after the deadline, entries at most, dead letters kept per reason, dead letters kept ms.
-- Returns {1 = there may be more, reasons of those that were buried...}. Who reads a lane has settled such an entry long
-- before. What was seen or retracted is not buried, nor what had its time while the person has no device on the lane.
local group, grace, left = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
assert(grace and left and tonumber(ARGV[5]) and tonumber(ARGV[6]), 'tidy: bad arguments')
local DETAILS = {
  row = {'expired', 'nobody has read its lane until long after its deadline'},
  trimmed = {'trimmed', 'the inbox has dropped its row for newer ones'},
  forgotten = {'forgotten', 'there is no inbox of this person any more'},
}
local answer, trims = {0}, {}

local function text_of(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'push' then return fields[at + 1] end
  end
  return ''
end

local function has_devices(user, lane)
  local lanes = call('HGET', 'dev:' .. tag .. ':' .. user, 'lanes') or ''
  return string.find(' ' .. lanes .. ' ', ' ' .. lane .. ' ', 1, true) ~= nil
end

-- Why it is buried: reason, detail; nothing where the push is not needed any more.
local function why(user, nid, lane)
  local how = standing(load_inbox(user), nid)
  if how == 'row' and not has_devices(user, lane) then return nil end
  return unpack(DETAILS[how] or {})
end

local function tidy(lane, stream, id, text)
  local user, nid, deadline, device = string.match(text, '^1 (%S+) (%S+) (%d+) (%S+) ')
  if not user or tonumber(deadline) + grace > now then return 0 end
  local done, how, detail = pcall(why, user, nid, lane)
  if not done then
    if tonumber(deadline) + DAY > now then return 0 end  -- it may be mended, or have failed in passing
    how, detail = 'unreadable', reason(how)
  end
  if how then
    local key = 'dead:' .. tag .. ':' .. how
    call('XADD', key, 'MAXLEN', '~', ARGV[5], '*', 'v', '1', 'reason', how, 'detail', detail, 'source', nid, 'entry', id,
         'to', user, 'raw', text, 'lane', lane, 'device', device)
    trims[key] = true
    answer[#answer + 1] = how
  end
  call('XACK', stream, group, id)
  call('XDEL', stream, id)
  return 1
end

for _, lane in ipairs(call('SMEMBERS', 'pushes:' .. tag)) do
  if left <= 0 then
    answer[1] = 1
    break
  end
  local stream, most, gone = 'push:' .. tag .. ':' .. lane, left, 0
  local found = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', most)
  for _, entry in ipairs(found.err and {} or found) do  -- a key of another type is told by who reads the lane
    gone = gone + tidy(lane, stream, entry[1], text_of(entry[2]))
  end
  if gone > 0 and #found == most then answer[1] = 1 end
  left = left - gone
end
for key in pairs(trims) do call('XTRIM', key, 'MINID', '~', int(now - tonumber(ARGV[6]))) end
return answer
