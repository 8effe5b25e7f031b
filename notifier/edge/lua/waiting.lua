-- What the members of `due` stand for, in the hash `later`: "<version> <lane> <seq of the row> <deadline> <tries> <free>
-- <doubts>". In front of the scripts that know it; what another version wrote is left to whom it belongs to.
-- A member is "r:<user>:<notification>:<device>"; other letters in front are other versions' too.
local function waiting_of(value)  -- lane, seq, the rest; nothing for what this version cannot read
  local lane, seq, rest = string.match(value, '^1 (%S+) (%d+) (%d+ %d+ %d+ %d+)$')
  if not lane then  -- what was written before there was a version; a lane has a colon
    lane, seq, rest = string.match(value, '^(%S+:%a+) (%d+) (%d+ %d+ %d+ %d+)$')
  end
  return lane, tonumber(seq), rest
end

local function is_foreign(value)
  local version = string.match(value, '^(%d+) ')
  return version ~= nil and version ~= '1'
end

local function waiting_text(lane, seq, rest) return '1 ' .. lane .. ' ' .. seq .. ' ' .. rest end
