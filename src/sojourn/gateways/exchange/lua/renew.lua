-- Prolong the leases of many sessions and the life of their logs.
-- KEYS: lease, events, log of each. ARGV: ttl of a lease in ms, of a log in ms, then "pod:epoch" of each.
-- Returns the number (from 1) and the present holder of each that was lost.
local lost = {}
for i = 1, #KEYS / 3 do
  local lease = KEYS[3 * i - 2]
  local held = redis.call('GET', lease)
  if held == ARGV[i + 2] then
    redis.call('PEXPIRE', lease, ARGV[1])
    redis.call('PEXPIRE', KEYS[3 * i - 1], ARGV[2])
    redis.call('PEXPIRE', KEYS[3 * i], ARGV[2])
  else
    lost[#lost + 1] = i
    lost[#lost + 1] = held or ''
  end
end
return lost
