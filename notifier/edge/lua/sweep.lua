-- sweep: idempotency marks of an hour go when no entry that could repeat it is left. KEYS: lease, stream.
-- ARGV: tag, incarnation, window ms, buckets an hour, sets removed a call at most, when the oldest entry before this
-- stream was accepted (ms, looked up before this call; 0 = there is none).
-- A set of hour h is needed until the oldest entry left was accepted after the end of h + window: no TTL could know.
-- Returns {1 when there is more to do, sets removed}, or {-1, 0} when the lease is another's.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return {-1, 0} end
local HOUR, MARGIN = 3600000, 600000   -- margin: a router may be late with what it has read
local LOOKS = 500                      -- entries looked at; in a longer stream marks stay until it is shorter
local clock = redis.call('TIME')
local oldest = clock[1] * 1000
if ARGV[6] ~= '0' then oldest = math.min(oldest, tonumber(ARGV[6])) end
-- Entries stand in the order of their acceptance at the front door only: elsewhere a router that was killed has repeated
-- old ones behind newer ones.
local routed = string.sub(KEYS[2], 1, 7) == 'events:'
local left = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', routed and LOOKS + 1 or 1)
if #left > LOOKS then return {0, 0} end
for _, entry in ipairs(left) do
  local accepted = entry[1]
  for at = 1, #entry[2], 2 do
    if entry[2][at] == 'id' and string.match(entry[2][at + 1], '^%d+%-%d+$') then accepted = entry[2][at + 1] end
  end
  oldest = math.min(oldest, tonumber(string.match(accepted, '^%d+')), tonumber(string.match(entry[1], '^%d+')))
end
local limit = math.ceil((oldest - MARGIN - tonumber(ARGV[3])) / HOUR - 1) - 1   -- the last hour that may go
local key, buckets, budget = 'swept:' .. ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local at = redis.call('GET', key)
local hour, bucket = limit, buckets
if at then
  hour, bucket = string.match(at, '^(%d+) (%d+)$')
  hour, bucket = tonumber(hour), tonumber(bucket)
  if hour > limit then hour, bucket = limit, buckets end   -- a clock that was ahead has been set right
end
local removed = 0
while budget > 0 and (hour < limit or bucket < buckets) do
  if bucket >= buckets then hour, bucket = hour + 1, 0 end
  local names = {}
  while bucket < buckets and budget > 0 and #names < 500 do
    names[#names + 1] = string.format('seen:%s:%.0f:%.0f', ARGV[1], hour, bucket)
    bucket, budget = bucket + 1, budget - 1
  end
  removed = removed + redis.call('UNLINK', unpack(names))
end
redis.call('SET', key, string.format('%.0f %.0f', hour, bucket))
return {(hour < limit or bucket < buckets) and 1 or 0, removed}
