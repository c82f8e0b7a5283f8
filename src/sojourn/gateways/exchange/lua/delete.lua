-- Delete some keys if the lease is ours. KEYS: lease, then what to delete. ARGV: "pod:epoch".
-- Returns 1 if it was ours, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
for i = 2, #KEYS do
  redis.call('DEL', KEYS[i])
end
return 1
