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
  local before = call('ZCARD', feed)
  if before > 0 then
    found = found + 1
    command[2] = feed
    if before + call(unpack(command)) > length then
      local others = call('ZLEXCOUNT', feed, '-', '(0')
      call('ZREMRANGEBYRANK', feed, others, -(length + 1))
    end
  end
end
return found
