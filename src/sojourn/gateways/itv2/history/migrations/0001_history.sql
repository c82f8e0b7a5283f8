-- AUTOINCREMENT: a cursor must never point at another event that took the number of a deleted one.
CREATE TABLE events (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    panel           TEXT NOT NULL,
    at_ms           INTEGER NOT NULL,
    source          TEXT NOT NULL,
    kind            TEXT NOT NULL,
    partition       INTEGER,
    zone            INTEGER,
    user            INTEGER,
    partition_label TEXT NOT NULL,
    zone_label      TEXT NOT NULL,
    user_label      TEXT NOT NULL,
    asker           TEXT NOT NULL,
    panel_time      TEXT,
    is_approximate  INTEGER NOT NULL,
    detail          TEXT NOT NULL
);

-- Every index ends with the id by itself, so each gives the order of the pages.
CREATE INDEX events_by_time ON events (at_ms);
CREATE INDEX events_by_panel ON events (panel, at_ms);
CREATE INDEX events_by_zone ON events (zone, at_ms) WHERE zone IS NOT NULL;
CREATE INDEX events_by_user ON events (user, at_ms) WHERE user IS NOT NULL;
-- Orders that were given through us: they are kept as long as an audit is, whatever else there is.
CREATE INDEX events_by_asker ON events (asker, at_ms) WHERE kind = 'command';

-- The last packet with events of each panel whose acknowledgement no later packet has proven yet.
CREATE TABLE unproven_packets (
    panel  TEXT PRIMARY KEY,
    digest BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE states (
    panel    TEXT PRIMARY KEY,
    saved_ms INTEGER NOT NULL,
    state    BLOB NOT NULL
);
