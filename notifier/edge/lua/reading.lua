-- The next entries of a stream for its reader; status ok | group. In front of the scripts that read, which have
-- checked the lease: what a stale owner reads would come again out of order.
local function next_entries(stream, group, consumer, wanted)
  if wanted == '0' then return 'ok', {} end
  local read = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', wanted, 'STREAMS', stream, '>')
  if not read then return 'ok', {} end
  if not read.err then return 'ok', read[1][2] end
  if string.find(read.err, 'NOGROUP', 1, true) then return 'group', {} end
  error(read)
end
