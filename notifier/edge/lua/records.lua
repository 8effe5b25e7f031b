-- Records of an inbox: read, written, trimmed. In front of the scripts that look at them, behind inbox.lua.
local STEPS = 64          -- records that a trim drops in one write, at most
local HOLES = 512         -- seqs that it looks at one by one, most of them superseded; what lies behind is found by name

local function put(box, field, value)
  local sets = box.sets
  if not sets then
    box.sets = {field, value}
    return
  end
  local at = #sets
  sets[at + 1], sets[at + 2] = field, value
end

-- Removes fields after the HSET.
local function remove(box, first, second)
  local dels = box.dels
  if not dels then
    box.dels = {first, second}
    return
  end
  dels[#dels + 1] = first
  dels[#dels + 1] = second
end

-- Blanks a record within the same HSET, because the removal of its field may fail: never two records of one id.
local function blank(box, seq)
  put(box, seq, '')
  if not box.blank then box.blank = {} end
  box.blank[seq] = true
end

local function kind_of(record) return sub(record, 2, 2) end
local function is_read(record) return sub(record, 3, 3) == '1' end
local function parts(record)  -- time, group, id
  local time, group, id = match(record, '^%S+ (%S+) (%S+) (%S+) ')
  return tonumber(time), group, id
end
local function line_of(kind, read, time, group, id, body)
  return VERSION .. kind .. read .. ' ' .. int(time) .. ' ' .. group .. ' ' .. id .. ' ' .. body
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

-- Writes the newest record of an id under the next seq, in place of its older one. index: its field "n:<id>"; old:
-- what stands in that field, or nil.
local function write(box, index, old, line)
  old = tonumber(old)
  if old and old > box.floor then
    local before = call('HGET', box.key, old)
    if before and before ~= '' then
      discount(box, before)
      blank(box, old)
      remove(box, old)
    end
  end
  local seq, kind = box.seq + 1, kind_of(line)
  box.seq = seq
  if box.sets then
    put(box, seq, line)
    put(box, index, seq)
  else
    box.sets = {seq, line, index, seq}  -- nearly always: a table that need not grow
  end
  if kind == 'n' then
    box.live = box.live + 1
    if not is_read(line) then box.unread = box.unread + 1 end
  elseif kind == 't' or kind == 'x' then
    box.tombs = box.tombs + 1
  end
end

-- The records of seqs first..last as they stand in the hash, false where there is none.
local function span(box, first, last)
  local names = {}
  for seq = first, last do names[#names + 1] = seq end
  local found, blanks = call('HMGET', box.key, unpack(names)), box.blank
  for at = 1, #names do
    if found[at] == '' or (blanks and blanks[first + at - 1]) then found[at] = false end
  end
  return found
end

-- Drops the oldest record. It need not be blanked: nothing reads one <= floor, should an error leave it there.
local function drop(box, seq, line)
  local _, _, id = parts(line)
  discount(box, line)
  remove(box, seq, 'n:' .. id)
  box.floor = seq
end

-- The seqs from `first` on that have a field, in order: whatever lies between them, it costs the same.
local function seqs_from(box, first)
  local found = {}
  for _, name in ipairs(call('HKEYS', box.key)) do
    local seq = tonumber(name)
    if seq and seq >= first and seq <= box.base then found[#found + 1] = seq end
  end
  table.sort(found)
  return found
end

-- Drops records from the tail on, behind ever so many holes.
local function trim_far(box, cap, left)
  local seqs = seqs_from(box, box.tail)
  local most = math.min(left, #seqs)
  if most == 0 then return end
  local lines = call('HMGET', box.key, unpack(seqs, 1, most))
  for at = 1, most do
    if box.live <= cap then break end
    local seq, line = seqs[at], lines[at]
    if line and line ~= '' and not (box.blank and box.blank[seq]) then drop(box, seq, line) end
    box.tail = seq + 1
  end
end

-- The cap counts live rows; the tail pointer drops at most STEPS records a write.
local function trim_rows(box, cap)
  local left, looks, stride = STEPS, HOLES, 1
  while box.live > cap and left > 0 and looks > 0 and box.tail <= box.base do
    local first = box.tail
    for at, line in ipairs(span(box, first, math.min(first + stride - 1, box.base))) do
      if box.live <= cap or left == 0 then break end
      if line then
        drop(box, first + at - 1, line)
        left = left - 1
      end
      box.tail, looks = first + at, looks - 1
    end
    stride = math.min(looks, stride * 8)
  end
  if looks == 0 and left > 0 and box.live > cap then trim_far(box, cap, left) end
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
    local seq, kind = first + at - 1, line and kind_of(line)
    if kind == 't' or kind == 'x' then
      local _, _, id = parts(line)
      discount(box, line)
      blank(box, seq)  -- it lies above the floor
      remove(box, seq, 'n:' .. id)
    end
    box.past = seq
  end
end
