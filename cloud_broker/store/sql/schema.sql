-- What the broker keeps, version 2 (PRAGMA user_version); `migrations.sql` brings older ones here.
-- Times are seconds since 1970 as REAL; lists and records are JSON text.

CREATE TABLE tenants (
    name       TEXT PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    sha256       BLOB NOT NULL UNIQUE,
    tenant       TEXT REFERENCES tenants (name),
    scopes       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    expires_at   REAL,
    revoked_at   REAL,
    last_used_at REAL,
    name         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    replaced_by  TEXT
);

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    sha256      BLOB NOT NULL UNIQUE,
    tenant      TEXT NOT NULL REFERENCES tenants (name),
    agent       TEXT NOT NULL,
    agent_group TEXT,
    created_at  REAL NOT NULL,
    expires_at  REAL NOT NULL,
    spent_at    REAL,
    spent_by    TEXT,
    certificate BLOB
);

CREATE TABLE agents (
    tenant           TEXT NOT NULL REFERENCES tenants (name),
    name             TEXT NOT NULL,
    agent_group      TEXT,
    serial           TEXT NOT NULL,
    not_after        REAL NOT NULL,
    enrolled_at      REAL NOT NULL,
    revoked_at       REAL,
    last_seen_at     REAL,
    release          TEXT NOT NULL,
    system           TEXT NOT NULL,
    journal          TEXT NOT NULL,
    position         INTEGER NOT NULL,
    catalogue        BLOB,
    catalogue_digest TEXT NOT NULL,
    issuer           TEXT NOT NULL,
    own_pki          INTEGER NOT NULL,
    revoked_reason   TEXT NOT NULL,
    next             TEXT NOT NULL,
    trusts           TEXT NOT NULL,
    lineage          TEXT NOT NULL,
    drained_at       REAL,
    UNIQUE (tenant, name)
);

-- The columns stand in the order of the dataclass Command. The number is ours alone: a small key keeps
-- the other indexes small, and appending to the end of the table is what a disk does best.
CREATE TABLE commands (
    number           INTEGER PRIMARY KEY,
    id               TEXT NOT NULL,
    tenant           TEXT NOT NULL,
    agent            TEXT,
    agent_group      TEXT,
    operation        TEXT NOT NULL,
    connection       TEXT NOT NULL,
    effect           TEXT NOT NULL,
    params           BLOB NOT NULL,
    fingerprint      TEXT NOT NULL,
    created_at       REAL NOT NULL,
    expires_at       REAL NOT NULL,
    state            TEXT NOT NULL,
    epoch            INTEGER NOT NULL,
    journal          TEXT NOT NULL,
    correlation_id   TEXT NOT NULL,
    idempotency_key  TEXT,
    ordering_key     TEXT,
    priority         INTEGER NOT NULL,
    traceparent      TEXT NOT NULL,
    key_id           TEXT NOT NULL,
    cancel_requested INTEGER NOT NULL,
    started_at       REAL,
    finished_at      REAL,
    outputs          BLOB,
    row_sets         TEXT,
    error            TEXT,
    warnings         TEXT,
    result           TEXT NOT NULL,
    dispatched_at    REAL,
    failures         INTEGER NOT NULL,
    not_before       REAL,
    replay_of        TEXT,
    replayed_by      TEXT,
    resolution       TEXT,
    sealed           INTEGER NOT NULL,
    signature        TEXT NOT NULL,
    seal_to          TEXT NOT NULL,
    proof            TEXT NOT NULL,
    operation_digest TEXT NOT NULL,
    rows_as          TEXT NOT NULL
);

-- Ids sort by time, so this one index finds a command and lists a tenant's newest first.
CREATE UNIQUE INDEX commands_id ON commands (tenant, id);
CREATE UNIQUE INDEX commands_idempotency ON commands (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX commands_correlation ON commands (tenant, correlation_id, id) WHERE correlation_id <> '';
CREATE UNIQUE INDEX commands_replay ON commands (tenant, replay_of) WHERE replay_of IS NOT NULL;
-- These three hold few entries at a time, or grow at their end only.
CREATE INDEX commands_open ON commands (tenant, id) WHERE finished_at IS NULL;
CREATE INDEX commands_dead ON commands (tenant, id, replayed_by) WHERE state IN ('failed', 'in_doubt', 'expired');
CREATE INDEX commands_finished ON commands (finished_at) WHERE finished_at IS NOT NULL;

-- Contents that are too large for parameters; their bytes are files. A command that names one is noted apart from it,
-- so that the commands, of which few do, stay small.
CREATE TABLE blobs (
    tenant     TEXT NOT NULL REFERENCES tenants (name),
    id         TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    created_at REAL NOT NULL,
    used_at    REAL NOT NULL,
    key_id     TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX blobs_used ON blobs (used_at);

CREATE TABLE blob_uses (
    tenant  TEXT NOT NULL,
    command TEXT NOT NULL,
    blob    TEXT NOT NULL,
    at      REAL NOT NULL,
    PRIMARY KEY (tenant, command)
) WITHOUT ROWID;
CREATE INDEX blob_uses_of_blob ON blob_uses (tenant, blob);

-- Beside the commands, so that listing those never reads past rows of somebody's result.
CREATE TABLE inline_results (
    number INTEGER PRIMARY KEY REFERENCES commands (number) ON DELETE CASCADE,
    rows   BLOB NOT NULL
);

-- What a command's own row does not tell of its life; a command without trouble has none.
CREATE TABLE steps (
    position   INTEGER PRIMARY KEY,
    number     INTEGER NOT NULL REFERENCES commands (number) ON DELETE CASCADE,
    at         REAL NOT NULL,
    step       TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    agent      TEXT NOT NULL,
    phase      TEXT NOT NULL,
    started_at REAL,
    outcome    TEXT NOT NULL,
    error      TEXT,
    detail     TEXT NOT NULL,
    outputs    BLOB
);
CREATE INDEX steps_of_command ON steps (number);

CREATE TABLE replay_runs (
    tenant          TEXT NOT NULL REFERENCES tenants (name),
    id              TEXT NOT NULL,
    wanted          TEXT NOT NULL,
    total           INTEGER NOT NULL,
    rate            REAL NOT NULL,
    key_id          TEXT NOT NULL,
    created_at      REAL NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    cursor          TEXT NOT NULL,
    replayed        INTEGER NOT NULL,
    skipped_count   INTEGER NOT NULL,
    skipped         TEXT NOT NULL,
    finished_at     REAL,
    idempotency_key TEXT,
    fingerprint     TEXT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, idempotency_key)
) WITHOUT ROWID;

-- Who did what: a chain for each tenant, and one under '' for the broker's own acts. The columns stand in the order of
-- the class Record. Nothing is ever changed or removed, also not when a command is forgotten.
CREATE TABLE audit (
    tenant         TEXT NOT NULL,
    number         INTEGER NOT NULL,
    at             TEXT NOT NULL,
    actor          TEXT NOT NULL,
    action         TEXT NOT NULL,
    target         TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    detail         TEXT NOT NULL,
    previous       BLOB NOT NULL,
    hash           BLOB NOT NULL,
    PRIMARY KEY (tenant, number)
) WITHOUT ROWID;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows: nothing in it can be changed');
END;

CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows: nothing in it can be removed');
END;

-- Replacing a row would remove it without the trigger above.
CREATE TRIGGER audit_grows_at_its_end BEFORE INSERT ON audit
WHEN NEW.number <> 1 + coalesce((SELECT max(number) FROM audit WHERE tenant = NEW.tenant), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows: a record goes to the end of its chain');
END;

CREATE TABLE approvals (
    id              TEXT NOT NULL,
    tenant          TEXT NOT NULL REFERENCES tenants (name),
    act             TEXT NOT NULL,
    target          TEXT NOT NULL,
    summary         TEXT NOT NULL,
    request         BLOB NOT NULL,
    key_id          TEXT NOT NULL,
    owner           TEXT NOT NULL,
    created_at      REAL NOT NULL,
    expires_at      REAL NOT NULL,
    fingerprint     TEXT NOT NULL,
    idempotency_key TEXT,
    state           TEXT NOT NULL CHECK (
        state IN ('open', 'approved', 'done', 'failed', 'refused', 'withdrawn', 'expired')
    ),
    decided_by      TEXT NOT NULL,
    decided_owner   TEXT NOT NULL,
    decided_at      REAL,
    note            TEXT NOT NULL,
    result          TEXT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, idempotency_key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX approvals_open ON approvals (tenant, fingerprint) WHERE state = 'open';

-- One row that is written to see whether a write gets through.
CREATE TABLE probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at REAL NOT NULL
);

PRAGMA user_version = 2;
