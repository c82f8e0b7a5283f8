-- Arrays, composites and ranges.
SELECT ARRAY[1, 2, 3], ARRAY[[1, 2], [3, 4]], '{a,"b c",NULL,"d\"e"}'::text[], '[2:3]={7,8}'::int[];
SELECT (ARRAY[1, 2, 3])[2:], array_append(ARRAY[1], 2), ARRAY[1, 2] @> ARRAY[2], 2 = ANY (ARRAY[1, 2]), array_agg(x) FROM generate_series(1, 3) x;
SELECT unnest(ARRAY[1, 2]), unnest(ARRAY['a', 'b', 'c']);
SELECT * FROM unnest(ARRAY['x', 'y']) WITH ORDINALITY;
CREATE TYPE point3 AS (x int, y int, z text);
SELECT ROW(1, 2, 'a,b')::point3, (ROW(1, 2, 'a')::point3).z;
SELECT int4range(1, 10) * int4range(5, 15), int4range(1, 3) && int4range(3, 5), '[1,5]'::int4range, 'empty'::int4range, '{[1,2),[5,9)}'::int4multirange;
SELECT int4range(5, 1);
SELECT '{1,2'::int[];
DROP TYPE point3;
