-- handover: one batch of (event, person) pairs into inboxes, then the acks, then the next entries of the stream.
-- KEYS: lease, stream. ARGV: tag, incarnation, lease ms, group, consumer, publish command, retention ms, cap,
-- register ms, dead letters kept per reason, dead letters kept ms, window ms, entries wanted, batch (msgpack).
-- batch: {stream ids, which of them are not complete with this batch, items}. Items stand one behind the other without
-- tables of their own, each WIDTH values (mark "": none, for a canary):
--          1, entry, user, mark key, mark, group, actor, id, accepted, record, push: a row; push: 0 = no phone is
--          asked, the deadline (ms) = phones are, the same below 0 = only those of who has no socket now
--          2, entry, user, mark key, mark, group, actor, id, accepted, time, 0: a retraction
--          3, entry, user, mark key, mark, reason, detail, source, at, "", 0: to the dead letters; the raw bytes are
--          argument 14 + at; with a user and a mark when only that pair could not be applied
-- Returns {status, {{item, error}...}, entries, repeats, bells}: status ok | lease | group; error "held" = waits for an
-- earlier one; bells: those for the caller itself, as a message has them, "" = none.
if call('GET', KEYS[1]) ~= ARGV[2] then return {'lease', {}, {}, 0, ''} end

local ADD, RETRACT, BURY, WIDTH = 1, 2, 3, 11
local batch = cmsgpack.unpack(ARGV[14])
local ids, unfinished, items = batch[1], batch[2], batch[3]
local retention, cap, register_life = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local LAST = {[ADD] = 'string', [RETRACT] = 'number', [BURY] = 'string'}
-- Everything is checked before the first write: Lua is not rolled back.
assert(retention and cap and tonumber(register_life) and tonumber(ARGV[13]), 'handover: bad settings')
assert(#items % WIDTH == 0, 'handover: bad batch')
for at = 1, #items, WIDTH do
  local move = items[at]
  if not ids[items[at + 1]] or type(items[at + 8]) ~= 'number' or type(items[at + 9]) ~= LAST[move]
     or type(items[at + 10]) ~= 'number' or (move == BURY and not ARGV[14 + items[at + 8]]) then
    error('handover: bad item ' .. (at - 1) / WIDTH + 1)
  end
end
call('PEXPIRE', KEYS[1], ARGV[3])

-- Lua's own comparison goes by the server's locale, which may differ from one server to the next.
local function after_in_bytes(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- Of two whole numbers without leading zeros, as large as they like.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return after_in_bytes(a, b)
end

-- (time, id) orders what one actor did; ids that were made from stream ids are compared as numbers.
local MADE = '^x:0*(%d+)-0*(%d+)$'
local function later(time, id, than_time, than_id)
  if time ~= than_time then return time > than_time end
  local ms, n = string.match(id, MADE)
  local than_ms, than_n = string.match(than_id, MADE)
  if ms and than_ms then
    if ms ~= than_ms then return greater(ms, than_ms) end
    return greater(n, than_n)
  end
  return after_in_bytes(id, than_id)
end

local function group_key(user, group) return 'grp:' .. tag .. ':' .. user .. ':' .. group end

local function register(user, group, actor)
  local value = call('HGET', group_key(user, group), actor)
  if not value then return nil, nil end
  local time, id = string.match(value, '^(%S+) (%S+)')
  return tonumber(time), id
end

-- A push to make on each lane of the person's devices, which keep `lanes` up to date (device.lua, settle.lua).
local lanes_of, rung = {}, {}
local function push(user, id, deadline)
  local lanes = lanes_of[user]
  if lanes == nil then
    lanes = call('HGET', 'dev:' .. tag .. ':' .. user, 'lanes')
    lanes_of[user] = lanes
  end
  if not lanes then return end
  local text = '1 ' .. user .. ' ' .. id .. ' ' .. int(deadline) .. ' - 0 0 0'
  for lane in string.gmatch(lanes, '%S+') do
    call('XADD', 'push:' .. tag .. ':' .. lane, '*', 'push', text)
    rung[lane] = true
  end
end

local function add_row(caller, user, group, actor, id, accepted, line, deadline)
  local off_time, off_id = register(user, group, actor)
  if off_time and not later(parts(line), id, off_time, off_id) then return end  -- was taken back, before it came
  local index = 'n:' .. id
  local box, old = open_inbox(user, index)
  write(box, index, old, line)
  if box.live > cap then trim_rows(box, cap) end
  save_inbox(box, retention)
  local here = present(user)
  ring(here, box, accepted, line, caller)
  if deadline > 0 then
    push(user, id, deadline)
  elseif deadline < 0 and #here == 0 then
    push(user, id, -deadline)
  end
end

-- The live rows of a group that are not later than (time, id): oldest first.
local function rows_of(box, group, time, id)
  local found = {}
  local function look(seq, line)
    if line and line ~= '' and kind_of(line) == 'n' and seq > box.floor then
      local row_time, row_group, row_id = parts(line)
      if row_group == group and not later(row_time, row_id, time, id) then found[#found + 1] = {seq, row_time, row_id} end
    end
  end
  if box.seq - box.floor <= 500 then
    if box.seq > box.floor then
      for at, line in ipairs(span(box, box.floor + 1, box.seq)) do look(box.floor + at, line) end
    end
  else
    local all = call('HGETALL', box.key)
    for at = 1, #all, 2 do
      local seq = tonumber(all[at])
      if seq then look(seq, all[at + 1]) end
    end
    table.sort(found, function(a, b) return a[1] < b[1] end)
  end
  return found
end

local function retract(caller, user, group, actor, id, accepted, time)
  local off_time, off_id = register(user, group, actor)
  -- An equal register is this retraction's own: all but its expiry is known to be done.
  if off_time and later(off_time, off_id, time, id) then return end
  local box = load_inbox(user)
  local rows = box and rows_of(box, group, time, id) or {}
  if #rows > 0 then
    arrive(box)
    local here = present(user)
    for _, row in ipairs(rows) do
      local line = line_of('t', '0', row[2], group, row[3], '')
      write(box, 'n:' .. row[3], row[1], line)
      trim_tombs(box, cap)
      save_inbox(box, retention)
      ring(here, box, accepted, line, caller)
    end
  end
  call('HSET', group_key(user, group), actor, int(time) .. ' ' .. id .. ' 0')
  call('PEXPIRE', group_key(user, group), register_life)
end

local function bury(entry, user, reason, detail, source, raw)
  local key = 'dead:' .. tag .. ':' .. reason
  call('XADD', key, 'MAXLEN', '~', ARGV[10], '*', 'v', '1', 'reason', reason, 'detail', detail, 'source', source,
       'entry', ids[entry], 'to', user, 'raw', ARGV[14 + raw])
  call('XTRIM', key, 'MINID', '~', int(now - tonumber(ARGV[11])))
end

-- A row, its bells, its pushes, then its register, then its mark last: an error in between leaves what a repeat completes.
-- A burial is not asked for its mark: the pair that it buries may have been applied half.
local function apply(move, entry, user, mark_key, mark, a, b, c, d, e, f)
  if move == BURY then
    bury(entry, user, a, b, c, d)
  else
    if mark ~= '' and call('SISMEMBER', mark_key, mark) == 1 then return 'duplicate' end
    -- A canary's bell goes over the bus whoever calls: it is sent to prove that the bus is heard.
    local caller = mark ~= '' and ARGV[2] or nil
    if move == ADD then add_row(caller, user, a, b, c, d, e, f) else retract(caller, user, a, b, c, d, e) end
  end
  if mark ~= '' then call('SADD', mark_key, mark) end
end

local failures, failed, held, duplicates = {}, {}, {}, 0
for at = 1, #items, WIDTH do
  local entry, user = items[at + 1], items[at] ~= BURY and items[at + 2]
  if user and held[user] then
    failed[entry] = true
    failures[#failures + 1] = {(at - 1) / WIDTH + 1, 'held'}
  else
    local ok, result = pcall(apply, unpack(items, at, at + WIDTH - 1))
    if not ok then
      failed[entry] = true
      if user then held[user] = true end
      failures[#failures + 1] = {(at - 1) / WIDTH + 1, reason(result)}
    elseif result == 'duplicate' then
      duplicates = duplicates + 1
    end
  end
end
publish(ARGV[6])
if next(rung) then
  local lanes = {}
  for lane in pairs(rung) do lanes[#lanes + 1] = lane end
  call(ARGV[6], 'lanes:' .. tag, table.concat(lanes, ' '))
end

-- XDEL only what XACK found: an entry whose read was rolled back with Redis comes again.
for _, entry in ipairs(unfinished) do failed[entry] = true end
local gone = {}
for entry, id in ipairs(ids) do
  if not failed[entry] and call('XACK', KEYS[2], ARGV[4], id) == 1 then gone[#gone + 1] = id end
end
if #gone > 0 then call('XDEL', KEYS[2], unpack(gone)) end

local status, fresh = next_entries(KEYS[2], ARGV[4], ARGV[5], ARGV[13])
return {status, failures, fresh, duplicates, told[1] and cmsgpack.pack(told) or ''}
