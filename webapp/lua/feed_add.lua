-- Adds members to those of the feeds that exist, and cuts each to its length. Replies how many exist.
--
-- KEYS  feeds
-- ARGV  most photos in a feed, members
local call = redis.call
local length = tonumber(ARGV[1])
local portions = {}
-- Lua puts no more than 8000 values on its stack at once.
for from = 2, #ARGV, 1000 do
  local portion = {}
  for at = from, math.min(from + 999, #ARGV) do
    portion[#portion + 1] = 0
    portion[#portion + 1] = ARGV[at]
  end
  portions[#portions + 1] = portion
end

local found = 0
for _, feed in ipairs(KEYS) do
  local size = call('ZCARD', feed)
  if size > 0 then
    found = found + 1
    for _, portion in ipairs(portions) do
      size = size + call('ZADD', feed, unpack(portion))
    end
    if size > length then
      local others = call('ZLEXCOUNT', feed, '-', '(0')
      call('ZREMRANGEBYRANK', feed, others, -(length + 1))
    end
  end
end
return found
