-- claim: the lease holder takes over what is pending, in id order. KEYS: lease, stream.
-- ARGV: tag, incarnation, lease ms, group, consumer, min-idle ms (0 = a takeover), start id, count.
-- Returns {status, next start, entries, ids of entries that were deleted while pending}; status ok | lease | group.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return {'lease', '0-0', {}, {}} end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local got = redis.pcall('XAUTOCLAIM', KEYS[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 'COUNT', ARGV[8])
if got.err then
  if string.find(got.err, 'NOGROUP', 1, true) then return {'group', '0-0', {}, {}} end
  return redis.error_reply(got.err)
end

local function last_delivered()
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    local group = {}
    for at = 1, #flat, 2 do group[flat[at]] = flat[at + 1] end
    if group.name == ARGV[4] then return group['last-delivered-id'] end
  end
  return '0-0'
end

-- Entries that were read and are no longer pending, but still there: an error has come between XACK and XDEL, or somebody
-- has acknowledged by hand, or moved the group on. They would stay for ever, and keep all idempotency marks. Not deleted,
-- for who knows whether they were applied, but pending again: the marks know. Returns next start, entries.
local function with_stranded(following, entries)
  local upto, most = following == '0-0' and last_delivered() or '(' .. following, #entries + tonumber(ARGV[8])
  local all, claimed, stranded = redis.call('XRANGE', KEYS[2], ARGV[7], upto, 'COUNT', most), {}, {}
  local cut = #all == most   -- so many that the page ends here; what was claimed behind it comes with the next
  if cut then following = table.remove(all)[1] end
  for _, entry in ipairs(entries) do claimed[entry[1]] = entry end
  for _, entry in ipairs(all) do
    if not claimed[entry[1]] then stranded[#stranded + 1] = entry[1] end
    claimed[entry[1]] = nil
  end
  if #stranded > 0 then
    stranded[#stranded + 1] = 'FORCE'
    stranded[#stranded + 1] = 'JUSTID'
    redis.call('XCLAIM', KEYS[2], ARGV[4], ARGV[5], '0', unpack(stranded))
  end
  if not cut then   -- pending beyond what the group has been given: it was moved back
    for _, entry in ipairs(entries) do
      if claimed[entry[1]] then all[#all + 1] = entry end
    end
  end
  return following, all
end

local following, entries = got[1], got[2]
if ARGV[6] == '0' then following, entries = with_stranded(following, entries) end
return {'ok', following, entries, got[3]}
