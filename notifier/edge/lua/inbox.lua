-- What every script that touches an inbox shares; the loader puts it in front of the script.
-- An inbox is one hash (docs/architecture.md, "State"): "state" -> where it stands, "<seq>" -> record, "n:<id>" -> seq.
-- A record is "<version><kind><read> <time> <group> <id> <body>"; kinds: n notification, t retracted, x deleted,
-- s seen mark, r read mark. All changes of one item go into one HSET, so that an error tears nothing apart.
local call = redis.call
local tag = ARGV[1]
local INBOX, DAY = 'inbox:' .. tag .. ':', 86400000
local format, match, sub = string.format, string.match, string.sub
-- '%d' takes half of what '%.0f' does, but in a server of 32 bits it cuts off what is larger.
local WHOLE = format('%d', 2 ^ 52) == '4503599627370496' and '%d' or '%.0f'
local function int(value) return format(WHOLE, value) end
local function reason(err) return type(err) == 'table' and err.err or tostring(err) end  -- what pcall has caught

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- A new server process, or a promoted replica, has another run id: what was lost with the old one is thereby told.
-- The connection brings it as last argument (edge/redis.py), and the script's own are left: INFO took 4 us a call.
local run = table.remove(ARGV)
if not run or #run ~= 16 then error('the last argument is not the run of the server', 0) end

-- One field for all counters: fifteen cost more to fetch, to read and to write than all else that a row needs.
-- Version, run and prun of 16 characters (prun NO_RUN: there was none, and no client can name it), then doubles in
-- the order of `read_state`.
local STATE, VERSION, NO_RUN = '<c1c16c16dddddddddddd', '1', '----------------'
local STATE_SIZE = 129    -- of what STATE says, in bytes
local LAST_SEQ = 2 ^ 53   -- from here on a double is no longer followed by the next whole number

local function read_state(user, state)
  local version = sub(state, 1, 1)
  if version ~= VERSION then error('the inbox of ' .. user .. ' has version ' .. version .. ', not ' .. VERSION, 0) end
  if #state ~= STATE_SIZE then error('the state of the inbox of ' .. user .. ' is damaged: ' .. #state .. ' bytes', 0) end
  local _, at_run, prun, birth, from, seq, floor, tail, live, seen, ack, unread, tombs, past, till =
    struct.unpack(STATE, state)
  -- Else a walk from one of them to another might never end. Not even a NaN gets past this.
  if not (0 <= birth and birth < LAST_SEQ and 0 <= floor and floor <= past and past <= seq and seq < LAST_SEQ
          and 1 <= tail and tail <= seq + 1) then
    error('the state of the inbox of ' .. user .. ' is damaged: its numbers do not fit together', 0)
  end
  return {user = user, key = INBOX .. user, run = at_run, prun = prun, birth = birth, from = from, seq = seq,
          floor = floor, tail = tail, live = live, seen = seen, ack = ack, unread = unread, tombs = tombs, past = past,
          till = till, base = seq}
end

-- The inbox of a person, or nil. extra: one more field to fetch, returned second. A hash without `state` is an error:
-- taken for none, an inbox that another version wrote, or a damaged one, would be written over.
-- base: the highest seq that stands in the hash; sets: what save_inbox will write besides the state; dels: what it
-- will remove; blank: what it has already replaced. The last three are nil while there is nothing in them.
local function load_inbox(user, extra)
  local state, value
  if extra then
    local found = call('HMGET', INBOX .. user, 'state', extra)
    state, value = found[1], found[2]
  else
    state = call('HGET', INBOX .. user, 'state')
  end
  if state then return read_state(user, state), value end
  if call('EXISTS', INBOX .. user) == 1 then
    error('the inbox of ' .. user .. ' has no field `state`: another version wrote it, or it is damaged', 0)
  end
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
  local sets = box.sets
  if sets and #sets == 4 then  -- a new row, as nearly always
    call('HSET', box.key, 'state', state_of(box), sets[1], sets[2], sets[3], sets[4])
  else
    call('HSET', box.key, 'state', state_of(box), unpack(sets or {}))
  end
  if box.dels then call('HDEL', box.key, unpack(box.dels)) end
  -- Not at every change, but so that at least half of a short retention, all but a day of a long one, is always left.
  if box.till - now < retention - math.min(DAY, retention / 2) then
    -- `till` last: after an error in between the next write does this again, or the inbox would stay for ever
    call('PEXPIRE', box.key, int(retention))
    box.till = now + retention
    call('HSET', box.key, 'state', state_of(box))
  end
  box.sets, box.dels, box.blank, box.base = nil, nil, nil, box.seq
end
