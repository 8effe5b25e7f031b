-- page: rows of an inbox, newest first. ARGV: tag, user, when the token was issued (s), before (a seq, 0 = newest), rows.
-- Returns {birth, run, seq, floor, seen, unread, more, {seq, record, ...}}, or "revoked".
local revoked = call('GET', 'revoked:' .. tag .. ':' .. ARGV[2])
if revoked and tonumber(ARGV[3]) <= tonumber(revoked) then return 'revoked' end
local box = load_inbox(ARGV[2])
if not box then return {'0', run, 0, 0, 0, 0, 0, {}} end
local before, most = tonumber(ARGV[4]), tonumber(ARGV[5])
if before == 0 then before = box.seq + 1 end
local flat, lines, seqs = call('HGETALL', box.key), {}, {}
for at = 1, #flat, 2 do
  local seq, line = tonumber(flat[at]), flat[at + 1]
  if seq and seq > box.floor and seq < before and kind_of(line) == 'n' then
    seqs[#seqs + 1] = seq
    lines[seq] = line
  end
end
table.sort(seqs, function(a, b) return a > b end)
local found = {}
for at = 1, math.min(#seqs, most) do
  found[#found + 1] = seqs[at]
  found[#found + 1] = lines[seqs[at]]
end
return {int(box.birth), box.run, box.seq, box.floor, box.seen, box.unread, #seqs > most and 1 or 0, found}
