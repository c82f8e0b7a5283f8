-- Append events to a session's log, or replace it, if the lease is ours.
-- KEYS: lease, events (stream), log (hash).
-- ARGV: 1 "pod:epoch", 2 owner's epoch, 3 log's epoch, 4 keep in ms, 5 keep in number, 6 keep in bytes,
--       7 the offset to begin behind, which replaces the log, or '' to append,
--       8 simulator and 9 seq of the last event before the first (only if it replaces);
--       then offset, type, body, time, simulator and seq of each event.
-- The hash: e log's epoch, o last offset, f first offset kept, b bytes of bodies kept, s and q the simulator and
-- number of its last event, w the owner's epoch that wrote last.
-- Numbers are formatted with %.0f: Lua's own text of a large number is not an integer.
local EVENTS, FIELDS = 10, 6
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  return {'fenced', held or ''}
end
local keep_count, keep_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local last, first, count, bytes, simulator, seq
if ARGV[7] ~= '' then
  redis.call('DEL', KEYS[2], KEYS[3])
  last, count, bytes, simulator, seq = tonumber(ARGV[7]), 0, 0, ARGV[8], ARGV[9]
  first = last + 1
else
  local wanted = tonumber(ARGV[EVENTS])
  local log = redis.call('HMGET', KEYS[3], 'e', 'o', 'f', 'b', 's', 'q')
  if not log[1] then
    if wanted ~= 1 then
      return {'gap', '0', '0'}
    end
    redis.call('DEL', KEYS[2])
    last, first, count, bytes, simulator, seq = 0, 1, 0, 0, '', '0'
  else
    last, first, bytes, simulator, seq = tonumber(log[2]), tonumber(log[3]), tonumber(log[4]), log[5], log[6]
    if log[1] ~= ARGV[3] or wanted > last + 1 then
      return {'gap', log[1], log[2]}
    end
    count = redis.call('XLEN', KEYS[2])
    if count == 0 then
      first, bytes = last + 1, 0
    end
  end
end
for i = EVENTS, #ARGV, FIELDS do
  local offset = tonumber(ARGV[i])
  if offset > last then
    redis.call('XADD', KEYS[2], ARGV[3] .. '-' .. ARGV[i], 't', ARGV[i + 1], 'd', ARGV[i + 2], 'a', ARGV[i + 3],
      's', ARGV[i + 4], 'q', ARGV[i + 5])
    last, count, bytes = offset, count + 1, bytes + #ARGV[i + 2]
    if ARGV[i + 4] ~= '' then
      simulator, seq = ARGV[i + 4], ARGV[i + 5]
    end
  end
end
-- MAXLEN ~ would do for the number, but not say how many bytes it took away. A tenth more is let in, so that most
-- appends trim nothing.
if count > keep_count * 1.1 or bytes > keep_bytes then
  local place = '-'
  local function is_too_much()
    return count > 1 and (count > keep_count or bytes > keep_bytes)
  end
  while is_too_much() do
    local page = redis.call('XRANGE', KEYS[2], place, '+', 'COUNT', 100)
    if #page == 0 then
      break
    end
    for _, event in ipairs(page) do
      if not is_too_much() then
        break
      end
      count, bytes = count - 1, bytes - #event[2][4]
      first = tonumber(string.match(event[1], '%-(%d+)$')) + 1
    end
    place = '(' .. page[#page][1]
  end
  redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3] .. '-' .. string.format('%.0f', first))
end
local text = string.format('%.0f', last)
redis.call('HSET', KEYS[3], 'e', ARGV[3], 'o', text, 'f', string.format('%.0f', first),
  'b', string.format('%.0f', bytes), 's', simulator, 'q', seq, 'w', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'appended', text}
