-- Read what is behind a cursor. KEYS: events (stream), log (hash). ARGV: epoch, offset, how many at most.
-- Returns {'page', last, events}, {'trimmed', epoch, first, last}, {'epoch', epoch, last}, {'ahead', epoch, last}
-- or {'gone'}.
local log = redis.call('HMGET', KEYS[2], 'e', 'o', 'f')
if not log[1] then
  return {'gone'}
end
if log[1] ~= ARGV[1] then
  return {'epoch', log[1], log[2]}
end
local last, after = tonumber(log[2]), tonumber(ARGV[2])
if after > last then
  return {'ahead', log[1], log[2]}
elseif after == last then
  return {'page', log[2], {}}
elseif after + 1 < tonumber(log[3]) then
  return {'trimmed', log[1], log[3], log[2]}
end
local from = ARGV[1] .. '-' .. string.format('%.0f', after + 1)
local events = redis.call('XRANGE', KEYS[1], from, ARGV[1] .. '-' .. log[2], 'COUNT', ARGV[3])
if #events == 0 or events[1][1] ~= from then
  return {'trimmed', log[1], string.format('%.0f', last + 1), log[2]}
end
return {'page', log[2], events}
