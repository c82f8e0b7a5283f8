-- Partitioned tables and inheritance.
CREATE TABLE events (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE events_other PARTITION OF events DEFAULT;
INSERT INTO events VALUES ('2026-05-05', 'in'), ('2030-01-01', 'out');
SELECT tableoid::regclass, * FROM events ORDER BY at;
UPDATE events SET at = '2031-01-01' WHERE what = 'in';
SELECT tableoid::regclass, * FROM events ORDER BY at;
EXPLAIN (COSTS off) SELECT * FROM events WHERE at = '2026-02-02';
ALTER TABLE events DETACH PARTITION events_2026;
INSERT INTO events_2026 VALUES ('2026-01-02', 'alone');
\d+ events
CREATE TABLE general (a int);
CREATE TABLE special (b int) INHERITS (general);
INSERT INTO special VALUES (1, 2);
SELECT * FROM general;
SELECT * FROM ONLY general;
DROP TABLE events, events_2026, general CASCADE;
