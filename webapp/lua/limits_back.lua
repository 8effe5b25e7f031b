-- Gives one back that limits.lua took.
--
-- KEYS[1]  the rate: the time at which it would be unused again, in microseconds since 1970
-- ARGV[1]  microseconds between two at the full rate
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local unused = tonumber(call('GET', KEYS[1]) or 0) - tonumber(ARGV[1])
if unused <= now then return call('DEL', KEYS[1]) end
call('SET', KEYS[1], string.format('%.0f', unused), 'PX', math.ceil((unused - now) / 1000) + 1)
