-- look: what stands behind push entries of one lane. ARGV: tag, lane, bytes and work at most, entries (msgpack): user,
-- notification, device or "-", one behind the other. Work is counted in fields that are read.
-- Returns {now, run, people, entries}: a person is {birth, run, unread, {device id, line, ...}}; entries stand one behind
-- the other, each standing, seq, record, its person; fewer than asked for where the devices are many: ask again for the rest.
-- standing: row | retracted | seen | read | trimmed | forgotten | broken, where the record is what is wrong with what is
-- stored and there is no person (0): one damaged inbox stops nobody else's pushes. Nothing is written.
local lane, left, work = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local asked = cmsgpack.unpack(ARGV[5])
assert(#asked % 3 == 0, 'look: bad entries')
local people, boxes, number_of, entries = {}, {}, {}, {}
local whole = {}  -- by person: all devices are in the list

local function keep(mine, id, line)
  local at_lane = line and device_of(line)
  if line and (at_lane == lane or not at_lane) then  -- what is damaged may have been on this lane: it is told
    mine[#mine + 1] = id
    mine[#mine + 1] = line
    left = left - #line
  end
end

-- Only asked for where something is to be sent. A retry names its device: another look at fifty would be for nothing.
local function bring_devices(user, number, device)
  if whole[number] then return end
  local key, mine = 'dev:' .. tag .. ':' .. user, {}
  if device ~= '-' then
    mine = people[number][4]
    for at = 1, #mine, 2 do
      if mine[at] == device then return end
    end
    keep(mine, device, call('HGET', key, device))
  else
    local flat = call('HGETALL', key)
    work = work - #flat / 2
    for at = 1, #flat, 2 do
      if flat[at] ~= 'lanes' then keep(mine, flat[at], flat[at + 1]) end
    end
    people[number][4] = mine
    whole[number] = true
  end
end

-- The person's number and inbox, and where this notification stands in it, if that was fetched with it.
local function person(user, nid)
  local number = number_of[user]
  if number then return number, boxes[number] end
  local box, place = load_inbox(user, 'n:' .. nid)
  number = #people + 1
  number_of[user] = number
  boxes[number] = box or false
  people[number] = {box and int(box.birth) or '0', box and box.run or run, box and box.unread or 0, {}}
  return number, box, place
end

local function look(user, nid, device)
  work = work - 8
  local number, box, place = person(user, nid)
  local how, seq, record = standing(box, nid, place)
  if how == 'row' then bring_devices(user, number, device) end
  return number, how, seq, record
end

for at = 1, #asked, 3 do
  local done, number, how, seq, record = pcall(look, asked[at], asked[at + 1], asked[at + 2])
  if not done then
    number, how, seq, record = 0, 'broken', 0, reason(number)
  end
  left = left - #record
  local last = #entries
  entries[last + 1], entries[last + 2], entries[last + 3], entries[last + 4] = how, seq, record, number
  if left < 0 or work < 0 then break end
end
return {now, run, people, entries}
