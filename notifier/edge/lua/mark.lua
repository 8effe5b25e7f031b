-- mark: what people and their clients have received, seen, read, deleted. ARGV: tag, publish command, retention ms, cap,
-- marks (msgpack): {user, kind, birth, run, seq, {ids}}; kind ack | seen | read | delete; birth "" = no place was given.
-- Returns changed, error or "" for each mark, one behind the other. A mark takes a seq only if it changes a live row.
local retention, cap = tonumber(ARGV[3]), tonumber(ARGV[4])
local marks = cmsgpack.unpack(ARGV[5])
-- index fields of the two records that move; no event id can have this form
local SEEN, READ = 'n:\1seen', 'n:\1read'
local READS = 900
local KINDS = {ack = true, seen = true, read = true, delete = true}
for at, mark in ipairs(marks) do
  assert(#mark == 6 and KINDS[mark[2]] and type(mark[5]) == 'number', 'mark: bad mark ' .. at)
end

-- A seq means something only under the run in which it was given; none counts beyond what exists.
local function clamp(box, birth, at_run, seq)
  if tonumber(birth) ~= box.birth then return 0 end
  if at_run == box.run then return math.min(seq, box.seq) end
  if at_run == box.prun then return math.min(seq, box.from) end
  return 0
end

local function rows(box, first, last)  -- live rows first..last: {seq, record}, ascending
  local found = {}
  first, last = math.max(first, box.floor + 1), math.min(last, box.base)
  if first > last then return found end
  if last - first < 500 then
    for at, line in ipairs(span(box, first, last)) do
      if line and kind_of(line) == 'n' then found[#found + 1] = {first + at - 1, line} end
    end
    return found
  end
  local flat = call('HGETALL', box.key)
  for at = 1, #flat, 2 do
    local seq = tonumber(flat[at])
    if seq and seq >= first and seq <= last and kind_of(flat[at + 1]) == 'n' then found[#found + 1] = {seq, flat[at + 1]} end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  return found
end

-- One of the two records that move.
local function moved(box, kind, index, body)
  local line = line_of(kind, '0', now, '-', sub(index, 3), body)
  write(box, index, call('HGET', box.key, index), line)
  return line
end

local function seen(box, upto)
  local changed = #rows(box, box.seen + 1, upto) > 0
  box.seen = upto
  return changed and moved(box, 's', SEEN, int(upto))
end

-- The read record always holds every live row that is read, so that the newest one alone is enough. One change marks
-- READS rows at most, because what one HSET can take is bounded; second result: there may be more.
local function read(box, wanted)
  local ids, count = {}, 0
  for _, row in ipairs(rows(box, 1, box.base)) do
    local seq, line = row[1], row[2]
    local _, _, id = parts(line)
    if count < READS and not is_read(line) and wanted(seq, id) then
      put(box, seq, sub(line, 1, 2) .. '1' .. sub(line, 4))
      box.unread, count = box.unread - 1, count + 1
      ids[#ids + 1] = id
    elseif is_read(line) then
      ids[#ids + 1] = id
    end
  end
  return count > 0 and moved(box, 'r', READ, table.concat(ids, ' ')), count == READS
end

local function delete(box, id)
  local old = tonumber(call('HGET', box.key, 'n:' .. id) or nil)
  local before = old and old > box.floor and call('HGET', box.key, old)
  if not before or kind_of(before) ~= 'n' then return nil end
  local time, group = parts(before)
  local line = line_of('x', '0', time, group, id, '')
  write(box, 'n:' .. id, old, line)
  return line
end

local function finish(box, line)
  save_inbox(box, retention)
  if line then ring(present(box.user), box, now, line) end
  return line and 1 or 0
end

local function apply(user, kind, birth, at_run, seq, ids)
  local box = load_inbox(user)
  if not box then return 0 end
  arrive(box)
  local upto = birth == '' and 0 or clamp(box, birth, at_run, seq)
  if kind == 'ack' then
    if upto <= box.ack then return 0 end
    box.ack = upto
    return finish(box)
  elseif kind == 'seen' then
    if upto <= box.seen then return 0 end
    return finish(box, seen(box, upto))
  elseif kind == 'read' then
    local named = {}
    for _, id in ipairs(ids) do named[id] = true end
    local changed, line, more = 0, nil, true
    while more do
      line, more = read(box, function(at, id) return named[id] or at <= upto end)
      if line then changed = changed + finish(box, line) end
    end
    return changed
  end
  local changed = 0
  for _, id in ipairs(ids) do
    local line = delete(box, id)
    if line then
      trim_tombs(box, cap)
      changed = changed + finish(box, line)
    end
  end
  return changed
end

local results = {}
for at, mark in ipairs(marks) do
  local ok, result = pcall(apply, unpack(mark))
  results[2 * at - 1] = ok and result or 0
  results[2 * at] = ok and '' or reason(result)
end
publish(ARGV[2])
return results
