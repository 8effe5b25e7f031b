-- ack: the router's end of a batch, after every shard has answered. KEYS: lease, stream.
-- ARGV: tag, incarnation, group, dead letters kept per reason, kept ms, ids (msgpack), letters (msgpack).
-- A letter is {reason, detail, source, entry id, which argument holds the raw bytes}. Returns how many entries went.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return -1 end
local clock = redis.call('TIME')
local oldest = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[5]))
for _, letter in ipairs(cmsgpack.unpack(ARGV[7])) do
  local key = 'dead:' .. ARGV[1] .. ':' .. letter[1]
  redis.call('XADD', key, 'MAXLEN', '~', ARGV[4], '*', 'v', '1', 'reason', letter[1], 'detail', letter[2],
             'source', letter[3], 'entry', letter[4], 'to', '', 'raw', ARGV[letter[5]])
  redis.call('XTRIM', key, 'MINID', '~', oldest)
end
local gone = {}
for _, id in ipairs(cmsgpack.unpack(ARGV[6])) do
  if redis.call('XACK', KEYS[2], ARGV[3], id) == 1 then gone[#gone + 1] = id end
end
if #gone > 0 then redis.call('XDEL', KEYS[2], unpack(gone)) end
return #gone
