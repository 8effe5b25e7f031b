-- retry: dead letters back through the front door, each exactly once, whoever else tries it at the same time.
-- KEYS: front door, streams of dead letters. ARGV, five for each letter: which key holds it, its id there, the event,
-- the set that holds its idempotency mark ("" = none is in the way), the mark.
-- Returns for each letter the id of its new entry, "" where the letter was gone.
for at = 1, #ARGV, 5 do
  assert(KEYS[tonumber(ARGV[at])] and ARGV[at + 4], 'retry: bad letter ' .. at)
end
local made = {}
for at = 1, #ARGV, 5 do
  local key, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if #redis.call('XRANGE', key, id, id) == 0 then
    made[#made + 1] = ''
  else
    -- Lua is not rolled back: should the append fail, the letter is still there.
    made[#made + 1] = redis.call('XADD', KEYS[1], '*', 'event', ARGV[at + 2])
    -- A pair that was buried counts as done; now it is to be done after all.
    if ARGV[at + 3] ~= '' then redis.call('SREM', ARGV[at + 3], ARGV[at + 4]) end
    redis.call('XDEL', key, id)
  end
end
return made
