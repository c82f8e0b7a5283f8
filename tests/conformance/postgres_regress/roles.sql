-- Roles, grants and row security.
CREATE ROLE regress_owner;
CREATE ROLE regress_guest;
CREATE TABLE secrets (owner name, word text);
INSERT INTO secrets VALUES ('regress_guest', 'seen'), ('regress_owner', 'hidden');
SET ROLE regress_guest;
SELECT * FROM secrets;
RESET ROLE;
GRANT SELECT ON secrets TO regress_guest;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (owner = current_user);
SET ROLE regress_guest;
SELECT * FROM secrets;
DELETE FROM secrets;
RESET ROLE;
\dp secrets
SELECT has_table_privilege('regress_guest', 'secrets', 'INSERT');
DROP TABLE secrets;
DROP ROLE regress_owner, regress_guest;
