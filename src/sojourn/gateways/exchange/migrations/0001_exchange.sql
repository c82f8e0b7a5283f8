-- Ids are UUIDs of version 7 as text: they sort by age. No index names active_at or heartbeat_at, so that the batched
-- updates stay on their pages (heap-only tuples); what is live is few, and found by partial indexes.
CREATE TABLE sessions (
    id           text COLLATE "C" PRIMARY KEY,
    subject      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('new', 'active', 'detached', 'ended')),
    devices      text[] NOT NULL,
    policy       text NOT NULL,
    attributes   jsonb NOT NULL,
    links_count  integer NOT NULL DEFAULT 0,
    quality      text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL,
    active_at    timestamptz NOT NULL,
    detached_at  timestamptz,
    expires_at   timestamptz,
    owner_pod    text NOT NULL DEFAULT '',
    owner_epoch  bigint NOT NULL DEFAULT 0,
    ended_at     timestamptz,
    ended_reason text CHECK (ended_reason IN ('user', 'expired', 'replaced', 'admin', 'policy')),
    ended_detail text NOT NULL DEFAULT '',
    CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
    CHECK ((state = 'ended') = (ended_reason IS NOT NULL))
) WITH (fillfactor = 70);

-- One live session per subject, whoever creates at the same moment.
CREATE UNIQUE INDEX sessions_one_live ON sessions (subject) WHERE state <> 'ended';
CREATE INDEX sessions_live ON sessions (id) WHERE state <> 'ended';
CREATE INDEX sessions_owner ON sessions (owner_pod) WHERE state <> 'ended' AND owner_pod <> '';
CREATE INDEX sessions_subject ON sessions (subject, id);
CREATE INDEX sessions_ended_at ON sessions (ended_at) WHERE state = 'ended';

CREATE TABLE simulators (
    id                  text COLLATE "C" PRIMARY KEY,
    session_id          text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name                text NOT NULL,
    driver              text NOT NULL,
    desired             text NOT NULL CHECK (desired IN ('running', 'stopped')),
    state               text NOT NULL
        CHECK (state IN ('requested', 'starting', 'running', 'stopping', 'stopped', 'failed')),
    endpoint            text NOT NULL DEFAULT '',
    spec                jsonb NOT NULL,
    handle              jsonb NOT NULL DEFAULT '{}',
    failure             jsonb,
    is_unreachable      boolean NOT NULL DEFAULT false,
    generation          bigint NOT NULL DEFAULT 1,
    observed_generation bigint NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL,
    changed_at          timestamptz NOT NULL,
    claimed_by          text NOT NULL DEFAULT '',
    claimed_until       timestamptz,
    heartbeat_at        timestamptz
) WITH (fillfactor = 70);

-- One that is wanted per name; the one before it may still be stopping.
CREATE UNIQUE INDEX simulators_one_wanted ON simulators (session_id, name)
    WHERE desired = 'running' AND state NOT IN ('stopped', 'failed');
CREATE INDEX simulators_session ON simulators (session_id, id);
CREATE INDEX simulators_live ON simulators (id) WHERE state NOT IN ('stopped', 'failed');

-- No foreign key: every insert locks the session's row and looks whose it is.
CREATE TABLE session_events (
    session_id   text COLLATE "C" NOT NULL,
    log_epoch    bigint NOT NULL,
    event_offset bigint NOT NULL,
    type         text NOT NULL,
    body         bytea NOT NULL,
    at_ms        bigint NOT NULL,
    simulator_id text NOT NULL,
    simulator_seq bigint NOT NULL,
    PRIMARY KEY (session_id, log_epoch, event_offset)
);

CREATE TABLE idempotency_keys (
    subject    text NOT NULL,
    key        text NOT NULL,
    digest     bytea NOT NULL,
    attempt    integer NOT NULL DEFAULT 1,
    held_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    status     integer,
    headers    jsonb,
    body       bytea,
    PRIMARY KEY (subject, key),
    CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

CREATE TABLE pool_simulators (
    id          text COLLATE "C" PRIMARY KEY,
    driver      text NOT NULL,
    flavour     text NOT NULL,
    state       text NOT NULL CHECK (state IN ('ready', 'held', 'taken')),
    endpoint    text NOT NULL,
    handle      jsonb NOT NULL,
    created_at  timestamptz NOT NULL,
    session_id  text NOT NULL DEFAULT '',
    claim_token text NOT NULL DEFAULT '',
    held_until  timestamptz,
    CHECK ((state = 'held') = (held_until IS NOT NULL)),
    CHECK ((state = 'ready') = (claim_token = ''))
);
CREATE INDEX pool_simulators_ready ON pool_simulators (driver, flavour, id) WHERE state = 'ready';
CREATE UNIQUE INDEX pool_simulators_claim ON pool_simulators (claim_token) WHERE claim_token <> '';
