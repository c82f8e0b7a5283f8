-- Creating, altering, constraining.
CREATE TABLE parent (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE child (id serial, parent int REFERENCES parent ON DELETE CASCADE, amount int CHECK (amount > 0), total int GENERATED ALWAYS AS (amount * 2) STORED);
\d parent
\d child
INSERT INTO parent VALUES (1, 'one'), (2, 'two');
INSERT INTO child (parent, amount) VALUES (1, 5), (2, 7) RETURNING *;
INSERT INTO child (parent, amount) VALUES (9, 1);
INSERT INTO child (parent, amount) VALUES (1, -1);
INSERT INTO parent VALUES (1, 'again');
INSERT INTO parent VALUES (3, NULL);
ALTER TABLE child ADD COLUMN note text DEFAULT 'none', ALTER COLUMN amount TYPE bigint;
ALTER TABLE child RENAME COLUMN note TO remark;
SELECT * FROM child ORDER BY id;
DELETE FROM parent WHERE id = 1 RETURNING name;
SELECT * FROM child ORDER BY id;
DROP TABLE parent;
DROP TABLE parent CASCADE;
DROP TABLE child;
