-- Triggers that change, refuse and are deferred; constraints checked at commit.
CREATE TABLE watched (id int PRIMARY KEY, v text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% % on %', TG_WHEN, TG_OP, TG_TABLE_NAME;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    IF NEW.v = 'bad' THEN RAISE EXCEPTION 'no bad values'; END IF;
    NEW.v := upper(NEW.v);
    RETURN NEW;
END $$;
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
INSERT INTO watched VALUES (1, 'x'), (2, 'y');
INSERT INTO watched VALUES (3, 'bad');
UPDATE watched SET v = 'z' WHERE id = 1 RETURNING *;
DELETE FROM watched WHERE id = 2;
CREATE TABLE pointing (a int REFERENCES watched DEFERRABLE INITIALLY DEFERRED);
BEGIN; INSERT INTO pointing VALUES (77); SELECT 'not yet checked'; COMMIT;
SELECT count(*) FROM pointing;
BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO pointing VALUES (77); ROLLBACK;
ALTER TABLE watched DISABLE TRIGGER before_row;
INSERT INTO watched VALUES (4, 'quiet');
SELECT * FROM watched ORDER BY id;
DROP TABLE pointing, watched;
DROP FUNCTION watch;
