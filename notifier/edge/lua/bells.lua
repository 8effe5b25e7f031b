-- Bells: who is told of a change. Behind inbox.lua, in front of the scripts that change inboxes.
-- One message per process and call. known: incarnation -> is it alive (looked up once a call). told: what the caller
-- hears with the answer.
local bells, known, told = {}, {}, {}
local function alive(incarnation)
  if known[incarnation] == nil then known[incarnation] = call('EXISTS', 'alive:' .. tag .. ':' .. incarnation) == 1 end
  return known[incarnation]
end

-- Who holds a socket of this person; processes that died without a word are forgotten here.
local ON = 'on:' .. tag .. ':'
local function present(user)
  local here = call('SMEMBERS', ON .. user)
  for at = #here, 1, -1 do
    if not alive(here[at]) then call('SREM', ON .. user, table.remove(here, at)) end
  end
  return here
end

-- caller: the process that is told with the answer; nil: every process hears the bell.
local function ring(here, box, accepted, line, caller)
  for _, incarnation in ipairs(here) do
    local list = incarnation == caller and told or bells[incarnation]
    if not list then list = {}; bells[incarnation] = list end
    list[#list + 1] = {box.user, box.birth, box.run, box.seq, box.floor, box.unread, accepted, line}
  end
end

local function publish(command)
  for incarnation, list in pairs(bells) do
    call(command, 'bell:' .. tag .. ':' .. incarnation, cmsgpack.pack(list))
  end
end
