-- What every script that touches an inbox shares; the loader puts it in front of the script.
-- An inbox is one hash (docs/architecture.md, "State"): "state" -> where it stands, "<seq>" -> record, "n:<id>" -> seq.
-- A record is "<version><kind><read> <time> <group> <id> <body>"; kinds: n notification, t retracted, x deleted,
-- s seen mark, r read mark. All changes of one item go into one HSET, so that an error tears nothing apart.
local call = redis.call
local tag = ARGV[1]
local INBOX, DAY = 'inbox:' .. tag .. ':', 86400000
local match, sub = string.match, string.sub
local function int(value) return string.format('%.0f', value) end

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- A new server process, or a promoted replica, has another run id: what was lost with the old one is thereby told.
local about = call('INFO', 'server')
local _, before_run = string.find(about, 'run_id:', 1, true)
local run = sub(about, before_run + 1, before_run + 16)

-- One field for all counters: fifteen cost more to fetch, to read and to write than all else that a row needs.
-- Version, run and prun of 16 characters (prun NO_RUN: there was none, and no client can name it), then doubles in
-- the order of `read_state`.
local STATE, VERSION, NO_RUN = '<c1c16c16dddddddddddd', '1', '----------------'

local function read_state(user, state)
  local version = sub(state, 1, 1)
  if version ~= VERSION then error('the inbox of ' .. user .. ' has version ' .. version .. ', not ' .. VERSION) end
  local _, at_run, prun, birth, from, seq, floor, tail, live, seen, ack, unread, tombs, past, till =
    struct.unpack(STATE, state)
  return {user = user, key = INBOX .. user, run = at_run, prun = prun, birth = birth, from = from, seq = seq,
          floor = floor, tail = tail, live = live, seen = seen, ack = ack, unread = unread, tombs = tombs, past = past,
          till = till, base = seq}
end

-- The inbox of a person, or nil. extra: one more field to fetch, returned second.
-- base: the highest seq that stands in the hash; sets: what save_inbox will write besides the state; dels: what it
-- will remove; blank: what it has already replaced. The last three are nil while there is nothing in them.
local function load_inbox(user, extra)
  if not extra then
    local state = call('HGET', INBOX .. user, 'state')
    return state and read_state(user, state) or nil
  end
  local found = call('HMGET', INBOX .. user, 'state', extra)
  if found[1] then return read_state(user, found[1]), found[2] end
end

-- Brings an inbox over to this run of the server, before its first write in it.
local function arrive(box)
  if box.run == run then return end
  box.prun, box.run, box.from, box.ack = box.run, run, box.seq, math.min(box.ack, box.seq)
end

-- The same for writing, made when absent.
local function open_inbox(user, extra)
  local box, value = load_inbox(user, extra)
  if box then
    arrive(box)
    return box, value
  end
  return {user = user, key = INBOX .. user, run = run, prun = NO_RUN, birth = now, from = 0, seq = 0, floor = 0, tail = 1,
          live = 0, seen = 0, ack = 0, unread = 0, tombs = 0, past = 0, till = 0, base = 0}, nil
end

local function state_of(box)
  return struct.pack(STATE, VERSION, box.run, box.prun, box.birth, box.from, box.seq, box.floor, box.tail, box.live,
                     box.seen, box.ack, box.unread, box.tombs, box.past, box.till)
end

-- One HSET for everything, then what may fail without harm: removal of fields that nothing reads any more, expiry.
local function save_inbox(box, retention)
  call('HSET', box.key, 'state', state_of(box), unpack(box.sets or {}))
  if box.dels then call('HDEL', box.key, unpack(box.dels)) end
  if box.till - retention + DAY < now then
    -- `till` last: after an error in between the next write does this again, or the inbox would stay for ever
    call('PEXPIRE', box.key, int(retention))
    box.till = now + retention
    call('HSET', box.key, 'state', state_of(box))
  end
  box.sets, box.dels, box.blank, box.base = nil, nil, nil, box.seq
end
