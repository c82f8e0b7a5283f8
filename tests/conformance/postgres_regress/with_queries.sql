-- Common table expressions, recursive and writing.
WITH RECURSIVE t (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 50) SELECT sum(n), count(*) FROM t;
CREATE TEMP TABLE tree (id int, parent int);
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 1), (4, 2), (5, 4);
WITH RECURSIVE down AS (SELECT id, ARRAY[id] AS path FROM tree WHERE parent IS NULL UNION ALL SELECT tree.id, path || tree.id FROM tree JOIN down ON tree.parent = down.id) SELECT * FROM down ORDER BY path;
WITH gone AS (DELETE FROM tree WHERE id = 5 RETURNING id), more AS (INSERT INTO tree SELECT id * 10, 1 FROM gone RETURNING *) SELECT * FROM more;
SELECT * FROM tree ORDER BY id;
WITH x AS MATERIALIZED (SELECT 1 AS a) UPDATE tree SET parent = (SELECT a FROM x) WHERE id = 4 RETURNING *;
WITH RECURSIVE bad AS (SELECT 1 UNION ALL SELECT * FROM bad ORDER BY 1) SELECT * FROM bad;
