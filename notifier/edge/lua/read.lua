-- read: the next entries, when there is nothing to hand over. KEYS: lease, stream.
-- ARGV: incarnation, lease ms, group, consumer, entries wanted. Returns {status, entries}; status ok | lease | group.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lease', {}} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {next_entries(KEYS[2], ARGV[3], ARGV[4], ARGV[5])}
