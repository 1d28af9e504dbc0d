-- From each version of the schema to the next, under its number; `schema.sql` is what all of them together come to.
-- A column that is added stands at the end of its table, there as here.

-- to_two --
-- 0.2.0: agents that are drained, and the version of an operation that a command was checked against.
ALTER TABLE agents ADD COLUMN drained_at REAL;
ALTER TABLE commands ADD COLUMN operation_digest TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 2;
