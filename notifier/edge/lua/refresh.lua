-- refresh: a process says that it lives, and hears where each of its people stands: the net under lost bells.
-- ARGV: tag, incarnation, presence ms, alive ms, user... (at most 200).
-- Returns {run, {birth, run, seq, revoked, error}...}; error "" = all is well, else the inbox cannot be read.
local incarnation = ARGV[2]
call('SET', 'alive:' .. tag .. ':' .. incarnation, '1', 'PX', ARGV[4])

-- Presence first: whoever has an inbox that cannot be read is here all the same.
local function look(user, place)
  local key = 'on:' .. tag .. ':' .. user
  call('SADD', key, incarnation)
  call('PEXPIRE', key, ARGV[3])
  place[4] = tonumber(call('GET', 'revoked:' .. tag .. ':' .. user) or -1)
  local box = load_inbox(user)
  if box then place[1], place[2], place[3] = int(box.birth), box.run, box.seq end
end

-- One inbox that is not as it should be must not take presence and sweep from everybody else in the call.
local places = {}
for at = 5, #ARGV do
  local place = {'0', run, 0, -1, ''}
  local ok, err = pcall(look, ARGV[at], place)
  if not ok then place[5] = reason(err) end
  places[#places + 1] = place
end
return {run, places}
