-- INSERT ON CONFLICT, UPDATE FROM, DELETE USING, MERGE.
CREATE TEMP TABLE stock (item text PRIMARY KEY, amount int);
INSERT INTO stock VALUES ('a', 1), ('b', 2);
INSERT INTO stock VALUES ('a', 10), ('c', 3) ON CONFLICT (item) DO UPDATE SET amount = stock.amount + excluded.amount RETURNING *;
INSERT INTO stock VALUES ('a', 0) ON CONFLICT DO NOTHING;
INSERT INTO stock VALUES ('d', 1), ('d', 2) ON CONFLICT (item) DO UPDATE SET amount = 0;
UPDATE stock SET amount = v.n FROM (VALUES ('b', 20)) v (i, n) WHERE item = v.i RETURNING stock.*;
DELETE FROM stock USING (VALUES ('c')) v (i) WHERE item = v.i;
MERGE INTO stock s USING (VALUES ('a', 5), ('z', 9)) v (i, n) ON s.item = v.i WHEN MATCHED THEN UPDATE SET amount = v.n WHEN NOT MATCHED THEN INSERT VALUES (v.i, v.n);
SELECT * FROM stock ORDER BY item;
TRUNCATE stock;
SELECT count(*) FROM stock;
