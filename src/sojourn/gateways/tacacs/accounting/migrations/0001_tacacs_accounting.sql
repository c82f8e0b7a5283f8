-- One row per accounting record. record_id makes storing idempotent; args keep order and duplicates.
CREATE TABLE tacacs_accounting (
    record_id      uuid PRIMARY KEY,
    stored_at      timestamptz NOT NULL,
    node           text NOT NULL,
    device         text NOT NULL,
    device_address text NOT NULL,
    session_id     bigint NOT NULL,
    flags          text NOT NULL,
    "user"         text NOT NULL,
    port           text NOT NULL,
    rem_addr       text NOT NULL,
    priv_lvl       smallint NOT NULL,
    authen_method  text NOT NULL,
    authen_type    text NOT NULL,
    authen_service text NOT NULL,
    args           jsonb NOT NULL,
    task_id        text,
    service        text,
    protocol       text,
    cmd            text,
    start_time     bigint,
    stop_time      bigint,
    elapsed_time   bigint,
    timezone       text,
    event          text,
    reason         text,
    err_msg        text,
    bytes          bigint,
    bytes_in       bigint,
    bytes_out      bigint,
    paks           bigint,
    paks_in        bigint,
    paks_out       bigint
);

CREATE INDEX tacacs_accounting_stored_at ON tacacs_accounting (stored_at);
CREATE INDEX tacacs_accounting_user ON tacacs_accounting ("user", stored_at);
CREATE INDEX tacacs_accounting_device ON tacacs_accounting (device, stored_at);
