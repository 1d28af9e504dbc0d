-- standing --
tenants.name, tenants.state, tenants.created_at,
agents.tenant, agents.name, agent_group, serial, not_after, enrolled_at, revoked_at, last_seen_at, release, system,
journal, position, NULL, catalogue_digest, issuer, own_pki, revoked_reason, next, trusts, lineage, drained_at

-- standings_of --
WITH asked (tenant, name) AS (VALUES [(?, ?)])
SELECT {standing}, asked.name
FROM asked
JOIN tenants ON tenants.name = asked.tenant
LEFT JOIN agents ON agents.tenant = asked.tenant AND agents.name = asked.name;

-- doubtful --
-- All in one row: each step of a statement waits for its turn beside a busy event loop.
WITH linked (number, tenant, name, serial, own_pki) AS (
    SELECT
        key, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]')
    FROM json_each(:linked)
)
SELECT json_group_array(linked.number)
FROM linked
LEFT JOIN tenants ON tenants.name = linked.tenant
LEFT JOIN agents ON agents.tenant = linked.tenant AND agents.name = linked.name
WHERE tenants.state IS NOT 'active'
    OR agents.name IS NULL
    OR agents.revoked_at IS NOT NULL
    OR agents.own_pki <> linked.own_pki
    OR (
        NOT linked.own_pki
        AND linked.serial NOT IN (agents.serial, coalesce(json_extract(agents.next, '$.serial'), ''))
    );

-- greeted --
WITH here (tenant, name, serial, not_after, issuer, next, trusts, lineage, revoked_at, revoked_reason) AS (
    VALUES [(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]
)
UPDATE agents SET
    serial = here.serial, not_after = here.not_after, issuer = here.issuer, next = here.next, trusts = here.trusts,
    lineage = here.lineage, revoked_at = here.revoked_at, revoked_reason = here.revoked_reason
FROM here
WHERE agents.tenant = here.tenant AND agents.name = here.name;

-- seen --
WITH here (tenant, name, at, release, system, journal, position) AS (VALUES [(?, ?, ?, ?, ?, ?, ?)])
UPDATE agents SET
    last_seen_at = here.at,
    release = CASE here.release WHEN '' THEN agents.release ELSE here.release END,
    system = CASE here.system WHEN '' THEN agents.system ELSE here.system END,
    journal = CASE here.journal WHEN '' THEN agents.journal ELSE here.journal END,
    -- The highest there was; another journal counts from its own beginning.
    position = CASE
        WHEN here.journal IN ('', agents.journal) THEN max(agents.position, here.position) ELSE here.position
    END
FROM here
WHERE agents.tenant = here.tenant AND agents.name = here.name;

-- has_kept --
WITH here (tenant, name, tip) AS (VALUES [(?, ?, ?)])
UPDATE agents SET lineage = json_set(lineage, '$.confirmed', json('true'))
FROM here
WHERE agents.tenant = here.tenant AND agents.name = here.name AND json_extract(lineage, '$.tip') = here.tip;
