-- What every script that touches an inbox shares; the loader puts it in front of the script.
-- An inbox is one hash (docs/architecture.md, "State"): the counters below, "<seq>" -> record, "n:<id>" -> seq.
-- A record is "<version><kind><read> <time> <group> <id> <body>"; kinds: n notification, t retracted, x deleted,
-- s seen mark, r read mark. All changes of one item go into one HSET, so that an error tears nothing apart.
local call = redis.call
local tag = ARGV[1]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- A new server process, or a promoted replica, has another run id: what was lost with the old one is thereby told.
local run = string.sub(string.match(call('INFO', 'server'), 'run_id:(%x+)'), 1, 16)

local COUNTS = {'seq', 'live', 'unread', 'floor', 'tail', 'past', 'tombs'}
local STEPS = 64          -- how far a trim walks in one write; over holes, which cost little, HOLES
local HOLES = 512
local DAY = 86400000

local function inbox_key(user) return 'inbox:' .. tag .. ':' .. user end
local format, match, sub = string.format, string.match, string.sub
local function int(value) return format('%.0f', value) end

-- The inbox of a person, or nil. extra: one more field to fetch, returned second. base: the highest seq that stands
-- in the hash; sets, dels, blank: what save_inbox will write, remove, and what it has already replaced.
local function load_inbox(user, extra)
  local key = inbox_key(user)
  local v = call('HMGET', key, 'birth', 'run', 'prun', 'from', 'seq', 'floor', 'tail', 'live', 'seen', 'ack', 'unread',
                 'tombs', 'past', 'till', extra or 'birth')
  if not v[1] then return nil, nil end
  local box = {key = key, user = user, birth = tonumber(v[1]), run = v[2], prun = v[3], from = tonumber(v[4]),
               seq = tonumber(v[5]), floor = tonumber(v[6]), tail = tonumber(v[7]), live = tonumber(v[8]),
               seen = tonumber(v[9]), ack = tonumber(v[10]), unread = tonumber(v[11]), tombs = tonumber(v[12]),
               past = tonumber(v[13]), till = tonumber(v[14]) or 0, sets = {}, dels = {}, blank = {}}
  box.base = box.seq
  box.was = {floor = box.floor, tail = box.tail, past = box.past, tombs = box.tombs, live = box.live, unread = box.unread}
  return box, v[15]
end

-- Brings an inbox over to this run of the server, before its first write in it.
local function arrive(box)
  if box.run == run then return end
  box.prun, box.run, box.from, box.ack, box.whole = box.run, run, box.seq, math.min(box.ack, box.seq), true
end

-- The same for writing, made when absent.
local function open_inbox(user, extra)
  local box, value = load_inbox(user, extra)
  if not box then
    box = {key = inbox_key(user), user = user, birth = now, run = run, prun = '0', from = 0, seq = 0, floor = 0, tail = 1,
           live = 0, seen = 0, ack = 0, unread = 0, tombs = 0, past = 0, till = 0, sets = {}, dels = {}, blank = {},
           base = 0, was = {}, whole = true}
    return box, nil
  end
  arrive(box)
  return box, value
end

local function put(box, field, value)
  local sets = box.sets
  sets[#sets + 1] = field
  sets[#sets + 1] = value
end

-- Blanks a record within the same HSET and removes the field after it: never two records of one id.
local function erase(box, seq)
  put(box, seq, '')
  box.dels[#box.dels + 1] = seq
  box.blank[seq] = true
end

local function kind_of(record) return sub(record, 2, 2) end
local function is_read(record) return sub(record, 3, 3) == '1' end
local function parts(record)  -- time, group, id
  local time, group, id = match(record, '^%S+ (%S+) (%S+) (%S+) ')
  return tonumber(time), group, id
end

-- Takes one record out of the counts (not out of the hash).
local function discount(box, record)
  local kind = kind_of(record)
  if kind == 'n' then
    box.live = box.live - 1
    if not is_read(record) then box.unread = box.unread - 1 end
  elseif kind == 't' or kind == 'x' then
    box.tombs = box.tombs - 1
  end
end

-- Writes the newest record of `id` under the next seq, in place of its older one (old: that one's seq, or nil).
local function record(box, old, kind, read, time, group, id, body)
  if old and old > box.floor then
    local before = call('HGET', box.key, old)
    if before and before ~= '' then
      discount(box, before)
      erase(box, old)
    end
  end
  box.seq = box.seq + 1
  local seq = box.seq
  local line = '1' .. kind .. read .. ' ' .. int(time) .. ' ' .. group .. ' ' .. id .. ' ' .. body
  put(box, seq, line)
  put(box, 'n:' .. id, seq)
  if kind == 'n' then
    box.live = box.live + 1
    if read == '0' then box.unread = box.unread + 1 end
  elseif kind == 't' or kind == 'x' then
    box.tombs = box.tombs + 1
  end
  return line
end

-- The records of seqs first..last as they stand in the hash, false where there is none.
local function span(box, first, last)
  local names = {}
  for seq = first, last do names[#names + 1] = seq end
  local found = call('HMGET', box.key, unpack(names))
  for at = 1, #names do
    if found[at] == '' or box.blank[first + at - 1] then found[at] = false end
  end
  return found
end

local function forget_record(box, seq, line)
  local _, _, id = parts(line)
  discount(box, line)
  erase(box, seq)
  box.dels[#box.dels + 1] = 'n:' .. id
end

-- The cap counts live rows; the tail pointer drops at most STEPS records a write and looks at most at HOLES seqs.
-- All records <= floor are gone.
local function trim_rows(box, cap)
  local left, looks, stride = STEPS, HOLES, 1
  while box.live > cap and left > 0 and looks > 0 and box.tail <= box.base do
    local first = box.tail
    for at, line in ipairs(span(box, first, math.min(first + stride - 1, box.base))) do
      if box.live <= cap or left == 0 then break end
      local seq = first + at - 1
      if line then
        forget_record(box, seq, line)
        box.floor, left = seq, left - 1
      end
      box.tail, looks = seq + 1, looks - 1
    end
    stride = math.min(looks, HOLES - 1)
  end
  if box.past < box.floor then box.past = box.floor end
end

-- Tombstones are capped too, but must not take older live rows with them: `past` is the seq up to which they are
-- gone, and a client whose place lies before it is told to load anew.
local function trim_tombs(box, cap)
  if box.tombs <= cap then return end
  local first, last = box.past + 1, math.min(box.past + STEPS, box.base)
  if first > last then return end
  for at, line in ipairs(span(box, first, last)) do
    if box.tombs <= cap then break end
    local kind = line and kind_of(line)
    if kind == 't' or kind == 'x' then forget_record(box, first + at - 1, line) end
    box.past = first + at - 1
  end
end

-- One HSET for everything, then what may fail without harm: removal of blanked fields, expiry.
local function save_inbox(box, retention)
  local was = box.was
  for _, name in ipairs(COUNTS) do
    if box[name] ~= was[name] then put(box, name, box[name]) end
  end
  if box.whole then
    for _, name in ipairs({'birth', 'from', 'seen', 'ack'}) do put(box, name, box[name]) end
    put(box, 'run', box.run)
    put(box, 'prun', box.prun)
  end
  call('HSET', box.key, unpack(box.sets))
  if #box.dels > 0 then call('HDEL', box.key, unpack(box.dels)) end
  if box.till - retention + DAY < now then
    -- `till` last: after an error in between the next write does this again, or the inbox would stay for ever
    box.till = now + retention
    call('PEXPIRE', box.key, int(retention))
    call('HSET', box.key, 'till', int(box.till))
  end
  box.sets, box.dels, box.blank, box.whole, box.base = {}, {}, {}, false, box.seq
  for _, name in ipairs(COUNTS) do was[name] = box[name] end
end

-- Bells: one message per process and call. known: incarnation -> is it alive (looked up once a call).
local bells, known = {}, {}
local function alive(incarnation)
  if known[incarnation] == nil then known[incarnation] = call('EXISTS', 'alive:' .. tag .. ':' .. incarnation) == 1 end
  return known[incarnation]
end

-- Who holds a socket of this person; processes that died without a word are forgotten here.
local function present(user)
  local key, here = 'on:' .. tag .. ':' .. user, {}
  for _, incarnation in ipairs(call('SMEMBERS', key)) do
    if alive(incarnation) then here[#here + 1] = incarnation else call('SREM', key, incarnation) end
  end
  return here
end

local function ring(here, box, accepted, line)
  for _, incarnation in ipairs(here) do
    local list = bells[incarnation]
    if not list then list = {}; bells[incarnation] = list end
    list[#list + 1] = {box.user, box.birth, box.run, box.seq, box.floor, box.unread, accepted, line}
  end
end

local function publish(command)
  for incarnation, list in pairs(bells) do
    call(command, 'bell:' .. tag .. ':' .. incarnation, cmsgpack.pack(list))
  end
end
