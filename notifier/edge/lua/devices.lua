-- What scripts know of a person's devices: a hash of device id -> "<version><provider> <app> <registered> <JSON>", and
-- in `lanes` the lanes of them all, "<app>:<provider>" parted by spaces. What stands in front of the JSON is the same
-- in every version, so that an older process keeps the lanes of a device that only a newer one can read.
-- In front of the scripts that know devices; `tag` is set before.
local VERSION_OF_DEVICES = '1'
local PROVIDERS = {a = 'apns', f = 'fcm'}

-- Lane, registered (ms), whether this version wrote it; nothing for a damaged line, which costs its own device alone.
local function device_of(line)
  local version, provider, app, registered = string.match(line, '^(%d+)(%a) (%S+) (%d+) ')
  if not version then return nil end
  return app .. ':' .. (PROVIDERS[provider] or provider), tonumber(registered), version == VERSION_OF_DEVICES
end

-- All devices of a person: id -> line.
local function devices_of(key)
  local found, flat = {}, redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    if flat[at] ~= 'lanes' then found[flat[at]] = flat[at + 1] end
  end
  return found, #flat / 2
end

-- The lanes of devices, by name in order, so that equal sets are written alike.
local function lanes_of_devices(found)
  local known, lanes = {}, {}
  for _, line in pairs(found) do
    local lane = device_of(line)
    if lane and not known[lane] then
      known[lane] = true
      lanes[#lanes + 1] = lane
    end
  end
  table.sort(lanes)
  return table.concat(lanes, ' '), lanes
end

-- Takes devices off the list. `lanes` goes first: should the removal fail, the repeat finds them still there.
local function drop_devices(key, found, ids)
  for _, id in ipairs(ids) do found[id] = nil end
  if next(found) == nil then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'lanes', (lanes_of_devices(found)))
    redis.call('HDEL', key, unpack(ids))
  end
end
