-- LISTEN and NOTIFY in one session; the pid is the only thing that may differ.
LISTEN alpha;
LISTEN "Beta Channel";
SELECT * FROM pg_listening_channels() ORDER BY 1;
BEGIN; LISTEN gamma; ROLLBACK;
SELECT * FROM pg_listening_channels() ORDER BY 1;
NOTIFY alpha;
NOTIFY alpha, 'payload';
SELECT pg_notify('Beta Channel', repeat('p', 50));
BEGIN; NOTIFY alpha, 'once'; NOTIFY alpha, 'once'; NOTIFY alpha, 'later'; COMMIT;
BEGIN; NOTIFY alpha, 'never'; ROLLBACK;
SELECT pg_notify('alpha', repeat('x', 9000));
UNLISTEN alpha;
NOTIFY alpha, 'unheard';
UNLISTEN *;
SELECT count(*) FROM pg_listening_channels();
