-- Announce or retire a pod, or do neither; return all pods that live.
-- KEYS: live (sorted set of names by the ms when they expire), facts (hash), channel to tell of changes on.
-- ARGV: name or '', facts, load, ttl in ms or 0 to retire. Returns facts and load of each.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[1] ~= '' then
  local is_changed = false
  local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
  for _, name in ipairs(gone) do
    redis.call('ZREM', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name, name .. '/load')
    is_changed = true
  end
  if ARGV[4] == '0' then
    redis.call('ZREM', KEYS[1], ARGV[1])
    is_changed = redis.call('HDEL', KEYS[2], ARGV[1], ARGV[1] .. '/load') > 0 or is_changed
  else
    is_changed = redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] or is_changed
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2], ARGV[1] .. '/load', ARGV[3])
  end
  if is_changed then
    -- Redis has told its version since it has sharded channels, 7.0.
    redis.call(redis.REDIS_VERSION and 'SPUBLISH' or 'PUBLISH', KEYS[3], '')
  end
end
local pods = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')) do
  local facts = redis.call('HMGET', KEYS[2], name, name .. '/load')
  if facts[1] then
    pods[#pods + 1] = facts[1]
    pods[#pods + 1] = facts[2]
  end
end
return pods
