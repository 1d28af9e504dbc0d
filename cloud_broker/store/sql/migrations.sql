-- From each version of the schema to the next, under its number; `schema.sql` is what all of them together come to.
-- A column that is added stands at the end of its table, there as here.

-- to_two --
-- 0.2.0: agents that are drained, the version of an operation that a command was checked against, blobs, Arrow.
ALTER TABLE agents ADD COLUMN drained_at REAL;
ALTER TABLE commands ADD COLUMN operation_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE commands ADD COLUMN rows_as TEXT NOT NULL DEFAULT 'ndjson';
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
PRAGMA user_version = 2;
