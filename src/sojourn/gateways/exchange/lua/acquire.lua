-- Take a session's lease if it is free, ours, or held under a smaller epoch.
-- KEYS: lease, log. ARGV: "pod:epoch", epoch, ttl in ms. Returns who holds it now; ":epoch" if nobody does,
-- but a greater epoch has written.
local held = redis.call('GET', KEYS[1])
local epoch = tonumber(ARGV[2])
if held and held ~= ARGV[1] and tonumber(string.match(held, ':(%d+)$') or 0) >= epoch then
  return held
end
local wrote = redis.call('HGET', KEYS[2], 'w')
if wrote and tonumber(wrote) > epoch then
  return ':' .. wrote
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
