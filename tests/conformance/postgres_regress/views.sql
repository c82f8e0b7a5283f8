-- Views, rules and materialized views.
CREATE TABLE base (id int, kind text);
INSERT INTO base VALUES (1, 'a'), (2, 'b'), (3, 'a');
CREATE VIEW only_a AS SELECT * FROM base WHERE kind = 'a' WITH CHECK OPTION;
INSERT INTO only_a VALUES (4, 'a');
INSERT INTO only_a VALUES (5, 'b');
CREATE MATERIALIZED VIEW counted AS SELECT kind, count(*) FROM base GROUP BY kind;
SELECT * FROM counted ORDER BY kind;
DELETE FROM base WHERE id = 1;
REFRESH MATERIALIZED VIEW counted;
SELECT * FROM counted ORDER BY kind;
CREATE RULE no_delete AS ON DELETE TO base DO INSTEAD NOTHING;
DELETE FROM base;
SELECT count(*) FROM base;
\d+ only_a
DROP TABLE base CASCADE;
