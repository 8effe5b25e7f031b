-- What a push finds of its row: row | retracted | seen | read | trimmed | forgotten, the seq, and the record where the row
-- still stands. Behind records.lua.
local STANDINGS = {t = 'retracted', x = 'retracted'}
-- place: what stands in its field "n:<id>", false where there is none, nil if that is to be fetched.
local function standing(box, nid, place)
  if not box then return 'forgotten', 0, '' end
  if place == nil then place = call('HGET', box.key, 'n:' .. nid) end
  local seq = tonumber(place or nil)
  local record = seq and seq > box.floor and call('HGET', box.key, seq)
  if not record or record == '' then return 'trimmed', 0, '' end
  if STANDINGS[kind_of(record)] then return STANDINGS[kind_of(record)], seq, '' end
  if is_read(record) then return 'read', seq, '' end
  if seq <= box.seen then return 'seen', seq, '' end
  return 'row', seq, record
end
