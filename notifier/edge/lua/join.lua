-- join: presence, then the records after a place, in one step. ARGV: tag, user, incarnation ("" = no presence),
-- presence ms, alive ms, when the token was issued (s), mode fresh | load | resume, birth, run, after, records at most,
-- retention ms, since (a load page by page began there: tombstones up to it are not needed, 0 = none),
-- bytes of records at most, unless a single one is larger.
-- Returns {result, birth, run, seq, floor, seen, unread, now, more, {seq, record, ...}}; result fresh | load | resume |
-- resync | revoked. more: 1 = ask again with the last seq got.
local user, mode, most = ARGV[2], ARGV[7], tonumber(ARGV[11])
local BYTES = tonumber(ARGV[14])
local revoked = call('GET', 'revoked:' .. tag .. ':' .. user)
if revoked and tonumber(ARGV[6]) <= tonumber(revoked) then return {'revoked', '0', run, 0, 0, 0, 0, now, 0, {}} end
if ARGV[3] ~= '' then
  local key = 'on:' .. tag .. ':' .. user
  call('SADD', key, ARGV[3])
  call('PEXPIRE', key, ARGV[4])
  call('SET', 'alive:' .. tag .. ':' .. ARGV[3], '1', 'PX', ARGV[5])
end

local box = load_inbox(user)
if ARGV[3] ~= '' and not (box and box.till > 0) then
  -- made now, so that the place that `ready` names is one from which to resume
  box = open_inbox(user)
  save_inbox(box, tonumber(ARGV[12]))
end
local birth, after = tonumber(ARGV[8]), tonumber(ARGV[10])
local reach = math.max(after, tonumber(ARGV[13]))

-- Is (birth, run, after) a place from which every change is still known?
local function exact()
  if not box then return birth == 0 and after == 0 end
  if birth == 0 and after == 0 then return box.past == 0 end
  if birth ~= box.birth or reach < box.past then return false end
  return (ARGV[9] == box.run and reach <= box.seq) or (ARGV[9] == box.prun and reach <= box.from)
end

local result = mode
if mode == 'resume' and not exact() then result = 'resync' end
if not box then return {result, '0', run, 0, 0, 0, 0, now, 0, {}} end

-- never from below the floor: what an error has left there is not part of the inbox
local from = result == 'resume' and math.max(after, box.floor) or box.floor
local found, bytes, more = {}, 0, 0
local function take(seq, line)
  -- who starts from nothing needs rows only
  if result ~= 'resume' and kind_of(line) ~= 'n' then return true end
  if #found >= 2 * most or (bytes > 0 and bytes + #line > BYTES) then
    more = 1
    return false
  end
  bytes = bytes + #line
  found[#found + 1] = seq
  found[#found + 1] = line
  return true
end

if result ~= 'fresh' and from < box.seq then
  if box.seq - from <= 500 then
    for at, line in ipairs(span(box, from + 1, box.seq)) do
      if line and not take(from + at, line) then break end
    end
  else
    local all, seqs = {}, {}
    local flat = call('HGETALL', box.key)
    for at = 1, #flat, 2 do
      local seq = tonumber(flat[at])
      if seq and seq > from and flat[at + 1] ~= '' then
        seqs[#seqs + 1] = seq
        all[seq] = flat[at + 1]
      end
    end
    table.sort(seqs)
    for _, seq in ipairs(seqs) do
      if not take(seq, all[seq]) then break end
    end
  end
end
return {result, int(box.birth), box.run, box.seq, box.floor, box.seen, box.unread, now, more, found}
