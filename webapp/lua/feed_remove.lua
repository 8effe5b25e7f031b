-- Removes a photo from feeds, or with it all that one account put there.
--
-- KEYS  feeds
-- ARGV  "photo", its member; or "account", its id
local call = redis.call
for _, feed in ipairs(KEYS) do
  if ARGV[1] == 'photo' then
    call('ZREM', feed, ARGV[2])
  else
    call('ZREM', feed, '#' .. ARGV[2])
    local tail = ':' .. ARGV[2]
    for _, member in ipairs(call('ZRANGEBYLEX', feed, '[0', '(:')) do
      if string.sub(member, -#tail) == tail then call('ZREM', feed, member) end
    end
  end
end
return #KEYS
