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
  local box = load_inbox(user)
  local revoked = tonumber(call('GET', 'revoked:' .. tag .. ':' .. user) or -1)
  places[#places + 1] = box and {int(box.birth), box.run, box.seq, revoked} or {'0', run, 0, revoked}
end
return {run, places}
