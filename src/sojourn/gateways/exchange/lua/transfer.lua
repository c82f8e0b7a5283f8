-- Hand a lease to another pod. KEYS: lease. ARGV: our "pod:epoch", theirs, ttl in ms.
-- Returns who holds it now, '' for nobody.
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] or held == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return ARGV[2]
end
return held or ''
