-- handover: one batch of (event, person) pairs into inboxes, then the acks, then the next entries of the stream.
-- KEYS: lease, stream. ARGV: tag, incarnation, lease ms, group, consumer, publish command, retention ms, cap,
-- register ms, dead letters kept per reason, dead letters kept ms, window ms, entries wanted, batch (msgpack), room
-- (msgpack, "" = none): what the senders of the calling process take now, {bytes, work, {lane -> entries}}, as in look.lua.
-- batch: {stream ids, which of them are not complete with this batch, items}. Items stand one behind the other without
-- tables of their own, each WIDTH values (mark "": none, for a canary):
--          1, entry, user, mark key, mark, group, actor, id, accepted, record, push: a row; push: 0 = no phone is
--          asked, the deadline (ms) = phones are, the same below 0 = only those of who has no socket now
--          2, entry, user, mark key, mark, group, actor, id, accepted, time, 0: a retraction
--          3, entry, user, mark key, mark, reason, detail, source, at, "", 0: to the dead letters; the raw bytes are
--          argument 15 + at; with a user and a mark when only that pair could not be applied
-- Returns {status, {{item, error}...}, entries, repeats, bells, given}: status ok | lease | group; error "held" = waits for
-- an earlier one; bells: those for the caller itself, as a message has them, "" = none; given, empty without room: now, run,
-- then for each lane with room that got something its name and {entries, looks, people, is there more}, or false where it was
-- perhaps read and cannot be told. Of an entry that this call has appended, and whose row still stands at its end, there is
-- just the id, for the caller knows the rest; and three values in looks: which item it is of, its person, seq. A person is
-- {birth, run, unread, {device id, line, ...}}.
if call('GET', KEYS[1]) ~= ARGV[2] then return {'lease', {}, {}, 0, '', {}} end

local ADD, RETRACT, BURY, WIDTH = 1, 2, 3, 11
local batch = cmsgpack.unpack(ARGV[14])
local ids, unfinished, items = batch[1], batch[2], batch[3]
local bytes, work, rooms
if ARGV[15] ~= '' then bytes, work, rooms = unpack(cmsgpack.unpack(ARGV[15])) end
local retention, cap, register_life = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local LAST = {[ADD] = 'string', [RETRACT] = 'number', [BURY] = 'string'}
-- Everything is checked before the first write: Lua is not rolled back.
assert(retention and cap and tonumber(register_life) and tonumber(ARGV[13]), 'handover: bad settings')
assert(#items % WIDTH == 0 and (ARGV[15] == '' or type(rooms) == 'table'), 'handover: bad batch')
for at = 1, #items, WIDTH do
  local move = items[at]
  if not ids[items[at + 1]] or type(items[at + 8]) ~= 'number' or type(items[at + 9]) ~= LAST[move]
     or type(items[at + 10]) ~= 'number' or (move == BURY and not ARGV[15 + items[at + 8]]) then
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

-- What is known at the end of those whose pushes are given away: the inbox as it was saved last, seqs that are not the
-- newest of their notification any more, devices; by lane and entry of which item it is, and by item the seq of its row.
-- Only kept where there is room.
local boxes, superseded, listed, made, seqs = {}, {}, {}, {}, {}
local function supersede(user, seq)
  if not seq then return end  -- what stands there is no seq: `write` takes it for nothing too
  if not superseded[user] then superseded[user] = {} end
  superseded[user][seq] = true
end

-- The lanes of a person's devices, which `lanes` is kept up to date with (device.lua, settle.lua).
local function find_lanes(user)
  local key = 'dev:' .. tag .. ':' .. user
  if not rooms or work < 0 then return call('HGET', key, 'lanes') end
  local flat = call('HGETALL', key)
  work = work - #flat / 2
  listed[user] = flat
  for at = 1, #flat, 2 do
    if flat[at] == 'lanes' then return flat[at + 1] end
  end
  return false
end

-- One push entry. rung: by lane the last one, which nobody has been given yet.
local streams, rung = {}, {}
local function append(lane, text, box, item)
  local stream = streams[lane]
  if not stream then
    stream = 'push:' .. tag .. ':' .. lane
    streams[lane] = stream
  end
  local entry = call('XADD', stream, '*', 'push', text)
  rung[lane] = entry
  if rooms and rooms[lane] and listed[box.user] then
    if not made[lane] then made[lane] = {} end
    made[lane][entry] = item
    seqs[item] = box.seq
  end
end

-- A push to make on each lane of the person's devices.
local lanes_of = {}
local function push(box, id, item, deadline)
  local user = box.user
  local lanes = lanes_of[user]
  if lanes == nil then
    lanes = find_lanes(user)
    lanes_of[user] = lanes
  end
  if not lanes then return end
  local text = '1 ' .. user .. ' ' .. id .. ' ' .. int(deadline) .. ' - 0 0 0'
  if string.find(lanes, ' ', 1, true) then
    for lane in string.gmatch(lanes, '%S+') do append(lane, text, box, item) end
  elseif lanes ~= '' then
    append(lanes, text, box, item)
  end
end

local function add_row(item, caller, user, group, actor, id, accepted, line, deadline)
  local off_time, off_id = register(user, group, actor)
  if off_time and not later(parts(line), id, off_time, off_id) then return end  -- was taken back, before it came
  local index = 'n:' .. id
  local box, old = open_inbox(user, index)
  if rooms and old then supersede(user, tonumber(old)) end
  write(box, index, old, line)
  if box.live > cap then trim_rows(box, cap) end
  save_inbox(box, retention)
  if rooms then boxes[user] = box end
  local here = present(user)
  ring(here, box, accepted, line, caller)
  if deadline > 0 then
    push(box, id, item, deadline)
  elseif deadline < 0 and #here == 0 then
    push(box, id, item, -deadline)
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
      if rooms then supersede(user, row[1]) end
      local line = line_of('t', '0', row[2], group, row[3], '')
      write(box, 'n:' .. row[3], row[1], line)
      trim_tombs(box, cap)
      save_inbox(box, retention)
      ring(here, box, accepted, line, caller)
    end
    if rooms then boxes[user] = box end
  end
  call('HSET', group_key(user, group), actor, int(time) .. ' ' .. id .. ' 0')
  call('PEXPIRE', group_key(user, group), register_life)
end

local function bury(entry, user, reason, detail, source, raw)
  local key = 'dead:' .. tag .. ':' .. reason
  call('XADD', key, 'MAXLEN', '~', ARGV[10], '*', 'v', '1', 'reason', reason, 'detail', detail, 'source', source,
       'entry', ids[entry], 'to', user, 'raw', ARGV[15 + raw])
  call('XTRIM', key, 'MINID', '~', int(now - tonumber(ARGV[11])))
end

-- A row, its bells, its pushes, then its register, then its mark last: an error in between leaves what a repeat completes.
-- A burial is not asked for its mark: the pair that it buries may have been applied half.
local function apply(item, move, entry, user, mark_key, mark, a, b, c, d, e, f)
  if move == BURY then
    bury(entry, user, a, b, c, d)
  else
    if mark ~= '' and call('SISMEMBER', mark_key, mark) == 1 then return 'duplicate' end
    -- A canary's bell goes over the bus whoever calls: it is sent to prove that the bus is heard.
    local caller = mark ~= '' and ARGV[2] or nil
    if move == ADD then add_row(item, caller, user, a, b, c, d, e, f) else retract(caller, user, a, b, c, d, e) end
  end
  if mark ~= '' then call('SADD', mark_key, mark) end
end

local failures, failed, held, duplicates = {}, {}, {}, 0
for at = 1, #items, WIDTH do
  local entry, user = items[at + 1], items[at] ~= BURY and items[at + 2]
  local item = (at - 1) / WIDTH + 1
  if user and held[user] then
    failed[entry] = true
    failures[#failures + 1] = {item, 'held'}
  else
    local ok, result = pcall(apply, item, unpack(items, at, at + WIDTH - 1))
    if not ok then
      failed[entry] = true
      if user then held[user] = true end
      failures[#failures + 1] = {item, reason(result)}
    elseif result == 'duplicate' then
      duplicates = duplicates + 1
    end
  end
end
publish(ARGV[6])

-- The devices that a person has on a lane. What is damaged may have been on this one: it is told.
local function devices_on(lane, user)
  local flat, mine = listed[user], {}
  for at = 1, #flat, 2 do
    local id, line = flat[at], flat[at + 1]
    local on = id ~= 'lanes' and (device_of(line) or lane)
    if on == lane then
      mine[#mine + 1] = id
      mine[#mine + 1] = line
      bytes = bytes - #line
    end
  end
  return mine
end

-- Where a row that was pushed stands in its inbox now, after all else that this batch has done there; nil if it does not
-- stand, or if that is not known: an item of its person has failed. Then the sender looks itself.
local function still_in(user, seq)
  local box, over = boxes[user], superseded[user]
  if not held[user] and seq > box.floor and seq > box.seen and not (over and over[seq]) then return box end
end

-- The next entries of a lane, for the sender of this process. All are read here and now: what this call has appended last
-- is the last, and where it is among them nobody need be rung.
local function give(lane)
  local stream = 'push:' .. tag .. ':' .. lane
  local read = call('XREADGROUP', 'GROUP', ARGV[4], ARGV[5], 'COUNT', int(rooms[lane]), 'STREAMS', stream, '>')
  local entries, mine, looks, people, number_of = read and read[1][2] or {}, made[lane] or {}, {}, {}, {}
  local newest = #entries > 0 and entries[#entries][1]
  for at, entry in ipairs(entries) do
    local item = mine[entry[1]]
    local user = item and items[(item - 1) * WIDTH + 3]
    local box = item and bytes > 0 and still_in(user, seqs[item])
    if box then
      local number = number_of[user]
      if not number then
        number = #people + 1
        number_of[user] = number
        people[number] = {int(box.birth), box.run, box.unread, devices_on(lane, user)}
      end
      local last = #looks
      looks[last + 1], looks[last + 2], looks[last + 3] = item, number, seqs[item]
      entries[at] = entry[1]
    end
  end
  local all = newest and newest == rung[lane]
  if all then rung[lane] = nil end
  return {entries, looks, people, all and 0 or 1}
end

local given = {}
if rooms then
  given = {now, run}
  for lane in pairs(rung) do
    if rooms[lane] then
      local ok, result = pcall(give, lane)  -- the lane may have lost its group: its sender will find out
      given[#given + 1] = lane
      given[#given + 1] = ok and result
    end
  end
end
if next(rung) then
  local lanes = {}
  for lane in pairs(rung) do lanes[#lanes + 1] = lane end
  call(ARGV[6], 'lanes:' .. tag, table.concat(lanes, ' '))
end

for _, entry in ipairs(unfinished) do failed[entry] = true end
local done = {}
for entry, id in ipairs(ids) do
  if not failed[entry] then done[#done + 1] = id end
end

-- What Redis does not know as read, because it went back in time or the group was made again, comes again: it stays.
local function read_so_far(gone)
  local last_ms, last_n = '0', '0'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])  -- an error if the stream is gone
  for _, group in ipairs(groups.err and {} or groups) do
    for at = 1, #group, 2 do
      if group[at] == 'name' and group[at + 1] ~= ARGV[4] then break end
      if group[at] == 'last-delivered-id' then last_ms, last_n = string.match(group[at + 1], '^(%d+)-(%d+)$') end
    end
  end
  local found = {}
  for _, id in ipairs(gone) do
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    if not (greater(ms, last_ms) or (ms == last_ms and greater(n, last_n))) then found[#found + 1] = id end
  end
  return found
end

if #done > 0 then
  local acknowledged = call('XACK', KEYS[2], ARGV[4], unpack(done))
  if acknowledged < #done then done = read_so_far(done) end
  if #done > 0 then call('XDEL', KEYS[2], unpack(done)) end
end

local status, fresh = next_entries(KEYS[2], ARGV[4], ARGV[5], ARGV[13])
return {status, failures, fresh, duplicates, told[1] and cmsgpack.pack(told) or '', given}
