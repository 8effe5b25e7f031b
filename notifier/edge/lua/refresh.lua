-- refresh: a process says that it lives, and hears where each of its people stands: the net under lost bells.
-- ARGV: tag, incarnation, presence ms, alive ms, user... (at most 200). Returns {run, {birth, run, seq, revoked}...}.
local incarnation = ARGV[2]
call('SET', 'alive:' .. tag .. ':' .. incarnation, '1', 'PX', ARGV[4])
local places = {}
for at = 5, #ARGV do
  local user = ARGV[at]
  local key = 'on:' .. tag .. ':' .. user
  call('SADD', key, incarnation)
  call('PEXPIRE', key, ARGV[3])
  local v = call('HMGET', inbox_key(user), 'birth', 'run', 'seq')
  local revoked = call('GET', 'revoked:' .. tag .. ':' .. user)
  places[#places + 1] = {v[1] or '0', v[2] or run, tonumber(v[3] or 0), tonumber(revoked or -1)}
end
return {run, places}
