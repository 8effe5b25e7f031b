-- keep: of entries in hand those that are still this process's, and not idle any more by that.
-- KEYS: the lane's stream. ARGV: group, consumer, slack (ms), then pairs of entry id and ms that it was held for at least.
-- An entry that has been idle for less was given to somebody else under our name, who had reason to think us dead.
local stream, group, consumer, slack = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local mine = {}
for at = 4, #ARGV, 2 do
  local found = redis.pcall('XPENDING', stream, group, ARGV[at], ARGV[at], 1, consumer)
  if found.err then
    if string.find(found.err, 'NOGROUP', 1, true) then return {} end  -- all of it will come again
    error(found)
  end
  if found[1] and found[1][3] + slack >= tonumber(ARGV[at + 1]) then
    redis.call('XCLAIM', stream, group, consumer, 0, ARGV[at], 'JUSTID')
    mine[#mine + 1] = ARGV[at]
  end
end
return mine
