-- Adds members to those of the feeds that exist, and cuts each to its length. Replies how many exist.
--
-- KEYS  feeds
-- ARGV  most photos in a feed, members
local call = redis.call
local length = tonumber(ARGV[1])
local command = {'ZADD', '', 0, ARGV[2]}
for at = 3, #ARGV do
  command[#command + 1] = 0
  command[#command + 1] = ARGV[at]
end

local found = 0
for _, feed in ipairs(KEYS) do
  if call('EXISTS', feed) == 1 then
    found = found + 1
    command[2] = feed
    call(unpack(command))
    if call('ZCARD', feed) > length then
      local others = call('ZLEXCOUNT', feed, '-', '(0')
      call('ZREMRANGEBYRANK', feed, others, -(length + 1))
    end
  end
end
return found
