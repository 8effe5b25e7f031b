-- What a builder read from PostgreSQL joins what was posted meanwhile; the feed is complete if it is still his.
--
-- KEYS   feed, lock of its building
-- ARGV   the builder's token, most photos in a feed, members
-- Reply  1: complete. 0: the next reader builds it anew
local call = redis.call
local feed, lock = KEYS[1], KEYS[2]
if call('GET', lock) ~= ARGV[1] then return 0 end  -- he took too long: another has begun, or will
call('DEL', lock)
if not call('ZSCORE', feed, '!building') then return 0 end  -- lost, with what was posted meanwhile

for at = 3, #ARGV do call('ZADD', feed, 0, ARGV[at]) end
call('ZADD', feed, 0, '!')  -- before the next line: a set without members vanishes, and its expiry with it
call('ZREM', feed, '!building')
local others = call('ZLEXCOUNT', feed, '-', '(0')
call('ZREMRANGEBYRANK', feed, others, -(tonumber(ARGV[2]) + 1))
return 1
