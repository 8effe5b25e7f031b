-- claim: the lease holder takes over what is pending, in id order. KEYS: lease, stream.
-- ARGV: tag, incarnation, lease ms, group, consumer, min-idle ms, start id, count.
-- Returns {status, next start, entries, ids of entries that were deleted while pending}; status ok | lease | group.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return {'lease', '0-0', {}, {}} end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local got = redis.pcall('XAUTOCLAIM', KEYS[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 'COUNT', ARGV[8])
if got.err then
  if string.find(got.err, 'NOGROUP', 1, true) then return {'group', '0-0', {}, {}} end
  return redis.error_reply(got.err)
end
return {'ok', got[1], got[2], got[3]}
