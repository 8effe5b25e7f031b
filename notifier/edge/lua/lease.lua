-- lease: who reads a stream. KEYS: lease. ARGV: tag, take | give, incarnation, ms.
-- take: 2 newly ours, 1 still ours, 0 another's. give: 1 given back, 0 was not ours.
local holder = redis.call('GET', KEYS[1])
if ARGV[2] == 'give' then
  if holder ~= ARGV[3] then return 0 end
  return redis.call('DEL', KEYS[1])
end
if holder == ARGV[3] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return 1
end
if holder then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 2
