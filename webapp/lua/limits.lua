-- Takes one from each of several rates, or from none: the generic cell rate algorithm (ITU-T I.371).
--
-- KEYS   rates; each holds the time at which it would be unused again, in microseconds since 1970.
--        One more may follow: a hash to read on the way
-- ARGV   for each rate: microseconds between two at the full rate, how many may come at once
-- Reply  {0: taken, else in how many microseconds to try again; nothing was taken, the hash}
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local rates, after, wait = #ARGV / 2, {}, 0
for at = 1, rates do
  local key = KEYS[at]
  local interval, burst = tonumber(ARGV[2 * at - 1]), tonumber(ARGV[2 * at])
  local unused = tonumber(call('GET', key) or 0)
  -- A clock that was set back must not lock anybody out for longer than a whole burst.
  unused = math.min(math.max(unused, now), now + interval * burst)
  after[at] = unused + interval
  wait = math.max(wait, after[at] - interval * burst - now)
end
if wait > 0 then return {math.ceil(wait), {}} end

for at = 1, rates do
  local key = KEYS[at]
  call('SET', key, string.format('%.0f', after[at]), 'PX', math.ceil((after[at] - now) / 1000) + 1)
end
return {0, KEYS[rates + 1] and call('HGETALL', KEYS[rates + 1]) or {}}
