-- Contents that are too large for parameters, and the commands that name them.

-- blob_columns --
tenant, id, bytes, sha256, created_at, used_at, key_id

-- add_blob --
INSERT INTO blobs ({blob_columns}) VALUES (:tenant, :id, :bytes, :sha256, :created_at, :used_at, :key_id)
ON CONFLICT DO NOTHING;

-- blob --
SELECT {blob_columns} FROM blobs WHERE tenant = :tenant AND id = :id;

-- touch_blob --
UPDATE blobs SET used_at = max(used_at, :now) WHERE tenant = :tenant AND id = :id;

-- use_blob --
INSERT INTO blob_uses (tenant, command, blob, at) VALUES (:tenant, :command, :id, :now);

-- blob_totals --
SELECT tenant, sum(bytes) FROM blobs GROUP BY tenant;

-- open_blob_uses --
SELECT u.command, b.tenant, b.id, b.bytes, b.sha256, b.created_at, b.used_at, b.key_id
FROM commands AS c
JOIN blob_uses AS u ON u.tenant = c.tenant AND u.command = c.id
JOIN blobs AS b ON b.tenant = u.tenant AND b.id = u.blob
WHERE c.finished_at IS NULL;

-- forget_blob_uses --
-- Of commands that were forgotten, or never came to be.
DELETE FROM blob_uses
WHERE at < :before
    AND NOT EXISTS (SELECT 1 FROM commands AS c WHERE c.tenant = blob_uses.tenant AND c.id = blob_uses.command);

-- stale_blobs --
-- Used by nothing that is under way, or that may have to be done again.
SELECT {blob_columns} FROM blobs
WHERE used_at < :before
    AND NOT EXISTS (
        SELECT 1 FROM blob_uses AS u
        JOIN commands AS c ON c.tenant = u.tenant AND c.id = u.command
        WHERE u.tenant = blobs.tenant AND u.blob = blobs.id
            AND (
                c.finished_at IS NULL
                OR (c.state IN ('failed', 'in_doubt', 'expired') AND c.replayed_by IS NULL)
            )
    )
LIMIT :limit;

-- remove_blob --
DELETE FROM blobs WHERE tenant = :tenant AND id = :id;
