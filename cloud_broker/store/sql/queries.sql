-- Every query of the store, each under its name; parameters are bound by name.
-- A name in braces stands for the block of that name; what stands in square brackets is repeated for each row.

-- agent_columns --
tenant, name, agent_group, serial, not_after, enrolled_at, revoked_at, last_seen_at, release, system,
journal, position, catalogue, catalogue_digest, issuer, own_pki, revoked_reason, next, trusts, lineage, drained_at

-- key --
id, tenant, scopes, created_at, expires_at, revoked_at, last_used_at, name, owner, replaced_by

-- approval_columns --
id, tenant, act, target, summary, request, key_id, owner, created_at, expires_at, fingerprint, idempotency_key,
state, decided_by, decided_owner, decided_at, note, result

-- before_params --
id, tenant, agent, agent_group, operation, connection, effect

-- after_params --
fingerprint, created_at, expires_at, state, epoch, journal, correlation_id, idempotency_key, ordering_key,
priority, traceparent, key_id, cancel_requested, started_at, finished_at, outputs, row_sets, error, warnings,
result, dispatched_at, failures, not_before, replay_of, replayed_by, resolution, sealed, signature, seal_to, proof,
operation_digest, rows_as

-- command --
{before_params}, params, {after_params}

-- listed_command --
-- Without its params, which no list shows.
{before_params}, x'' AS params, {after_params}

-- wishes --
AND (NOT :dead_letters OR (state IN ('failed', 'in_doubt', 'expired') AND replayed_by IS NULL))
AND (:state IS NULL OR state = :state)
AND (:operation IS NULL OR operation = :operation)
AND (:agent IS NULL OR agent = :agent)
AND (:correlation_id IS NULL OR correlation_id = :correlation_id)
AND (:since IS NULL OR created_at >= :since)
AND (:before IS NULL OR created_at < :before)
AND (:code IS NULL OR json_extract(error, '$.code') = :code)

-- newest_first --
AND (:cursor IS NULL OR id < :cursor)
ORDER BY id DESC
LIMIT :limit;

-- run --
id, tenant, wanted, total, rate, key_id, created_at, state, cursor, replayed, skipped_count, skipped, finished_at,
idempotency_key, fingerprint

-- durable --
PRAGMA synchronous = FULL;

-- write_ahead --
PRAGMA journal_mode = WAL;

-- shrinks --
-- Before the first table is made; in a file of release 0.1.0, what is freed is used again, and stays with the file.
PRAGMA auto_vacuum = INCREMENTAL;

-- kept_in_memory --
PRAGMA cache_size = -16384; -- KiB; the inner pages of every index, also of ten million commands

-- free_pages --
SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count;

-- give_back --
-- One page each time it is executed: Python takes only the first step of it, whatever number stands here.
PRAGMA incremental_vacuum (1);

-- checked_references --
PRAGMA foreign_keys = ON;

-- read_only --
PRAGMA query_only = ON;

-- schema_version --
PRAGMA user_version;

-- begin --
BEGIN IMMEDIATE;

-- undo --
ROLLBACK;

-- begin_one --
SAVEPOINT one;

-- undo_one --
ROLLBACK TO one;

-- end_one --
RELEASE one;

-- commit --
COMMIT;

-- probe --
INSERT OR REPLACE INTO probe (id, at) VALUES (1, :now);

-- audit_columns --
tenant, number, at, actor, action, target, correlation_id, detail, previous, hash

-- audit_head --
SELECT number, hash FROM audit WHERE tenant = ? ORDER BY number DESC LIMIT 1;

-- add_audit --
INSERT INTO audit ({audit_columns}) VALUES [(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)];

-- audit_chains --
-- Every chain by name, with the number and the hash of its last record.
WITH RECURSIVE chains (tenant) AS (
    SELECT min(tenant) FROM audit
    UNION ALL
    SELECT (SELECT min(tenant) FROM audit WHERE audit.tenant > chains.tenant) FROM chains WHERE tenant IS NOT NULL
)
SELECT tenant, number, hash FROM audit
WHERE (tenant, number) IN (
    SELECT tenant, (SELECT max(number) FROM audit WHERE audit.tenant = chains.tenant) FROM chains
)
ORDER BY tenant;

-- audit_after --
SELECT {audit_columns} FROM audit WHERE tenant = :tenant AND number > :number ORDER BY number LIMIT :limit;

-- audit_page --
SELECT {audit_columns} FROM audit
WHERE tenant = :tenant AND number < :first AND number >= :last
    AND (:action IS NULL OR action = :action)
    AND (:target IS NULL OR target = :target)
    AND (:since IS NULL OR at >= :since)
ORDER BY number DESC
LIMIT :limit;

-- add_tenant --
INSERT INTO tenants (name, state, created_at) VALUES (:name, 'active', :now) ON CONFLICT DO NOTHING;

-- tenant --
SELECT name, state, created_at FROM tenants WHERE name = :name;

-- tenants --
SELECT name, state, created_at FROM tenants ORDER BY name;

-- set_tenant_state --
UPDATE tenants SET state = :state WHERE name = :name;

-- add_key --
INSERT INTO api_keys (sha256, {key})
VALUES (
    :sha256, :id, :tenant, :scopes, :created_at, :expires_at, :revoked_at, :last_used_at, :name, :owner, :replaced_by
);

-- key_by_hash --
SELECT {key} FROM api_keys WHERE sha256 = :sha256;

-- keys --
SELECT {key} FROM api_keys
WHERE :tenant IS NULL OR tenant = :tenant
ORDER BY created_at, id;

-- key_tenant --
SELECT tenant, revoked_at FROM api_keys WHERE id = :id;

-- revoke_key --
UPDATE api_keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id;

-- replace_key --
UPDATE api_keys SET replaced_by = :id, expires_at = min(coalesce(expires_at, :ends_at), :ends_at)
WHERE id = :replaced AND revoked_at IS NULL AND replaced_by IS NULL;

-- key_used --
UPDATE api_keys SET last_used_at = :now WHERE id = :id AND coalesce(last_used_at, 0) < :now;

-- add_token --
INSERT INTO tokens (id, sha256, tenant, agent, agent_group, created_at, expires_at)
VALUES (:id, :sha256, :tenant, :agent, :group, :created_at, :expires_at);

-- token_by_hash --
SELECT id, tenant, agent, agent_group, created_at, expires_at, spent_at, spent_by, certificate
FROM tokens WHERE sha256 = :sha256;

-- open_tokens --
SELECT count(*) FROM tokens WHERE spent_at IS NULL AND expires_at > :now;

-- spend_token --
UPDATE tokens SET spent_at = :now, spent_by = :request, certificate = :certificate
WHERE id = :id AND spent_at IS NULL;

-- enrol_agent --
INSERT OR REPLACE INTO agents ({agent_columns}) VALUES (
    :tenant, :name, :group, :serial, :not_after, :enrolled_at, :revoked_at, :last_seen_at, :release, :system,
    :journal, :position, :catalogue, :catalogue_digest, :issuer, :own_pki, :revoked_reason, :next, :trusts, :lineage,
    :drained_at
);

-- agent --
SELECT {agent_columns} FROM agents WHERE tenant = :tenant AND name = :name;

-- agents --
SELECT {agent_columns} FROM agents WHERE tenant = :tenant ORDER BY name;

-- agent_revoked_at --
SELECT revoked_at FROM agents WHERE tenant = :tenant AND name = :name;

-- end_tokens --
UPDATE tokens SET expires_at = :now
WHERE tenant = :tenant AND agent = :name AND spent_at IS NULL AND expires_at > :now;

-- revoke_agent --
UPDATE agents SET
    revoked_reason = CASE WHEN revoked_at IS NULL THEN :reason ELSE revoked_reason END,
    revoked_at = coalesce(revoked_at, :now)
WHERE tenant = :tenant AND name = :name;

-- agent_drained_at --
SELECT drained_at FROM agents WHERE tenant = :tenant AND name = :name;

-- drain_agent --
UPDATE agents SET drained_at = :at WHERE tenant = :tenant AND name = :name;

-- change_identity --
UPDATE agents SET
    serial = :serial, not_after = :not_after, issuer = :issuer, next = :next, trusts = :trusts, lineage = :lineage,
    revoked_at = :revoked_at, revoked_reason = :revoked_reason
WHERE tenant = :tenant AND name = :name;

-- put_catalogue --
UPDATE agents SET catalogue = :catalogue, catalogue_digest = :digest WHERE tenant = :tenant AND name = :name;

-- add_commands --
-- New ones: nothing has become of them yet.
INSERT INTO commands (
    {before_params}, params, fingerprint, created_at, expires_at, state, epoch, journal, correlation_id,
    idempotency_key, ordering_key, priority, traceparent, key_id, dispatched_at, replay_of, sealed, signature, seal_to,
    operation_digest, rows_as, cancel_requested, result, failures, proof
) VALUES [(
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, FALSE, 'none', 0, ''
)] ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING;

-- command_by_id --
SELECT {command} FROM commands WHERE tenant = :tenant AND id = :id;

-- command_by_idempotency_key --
SELECT {command} FROM commands WHERE tenant = :tenant AND idempotency_key = :idempotency_key;

-- inline_result --
SELECT rows FROM inline_results
WHERE number = (SELECT number FROM commands WHERE tenant = :tenant AND id = :id);

-- list_commands --
SELECT {listed_command} FROM commands
WHERE tenant = :tenant
{wishes}
{newest_first}

-- list_open_commands --
-- Finds them by the index of open ones.
SELECT {listed_command} FROM commands
WHERE tenant = :tenant
    AND finished_at IS NULL
{wishes}
{newest_first}

-- list_dead_letters --
-- Finds them by the index of dead letters.
SELECT {listed_command} FROM commands
WHERE tenant = :tenant
    AND state IN ('failed', 'in_doubt', 'expired')
{wishes}
{newest_first}

-- list_commands_by_correlation_id --
-- Finds them by the index of correlation ids.
SELECT {listed_command} FROM commands
WHERE tenant = :tenant
    AND correlation_id = :correlation_id AND correlation_id <> ''
{wishes}
{newest_first}

-- open_commands --
SELECT {command} FROM commands WHERE finished_at IS NULL ORDER BY number;

-- dispatched --
WITH sent (tenant, id, epoch, agent, journal, at) AS (VALUES [(?, ?, ?, ?, ?, ?)])
UPDATE commands INDEXED BY commands_open SET
    state = 'dispatched', epoch = sent.epoch, agent = sent.agent, journal = sent.journal, dispatched_at = sent.at,
    not_before = NULL, error = NULL
FROM sent
WHERE commands.tenant = sent.tenant AND commands.id = sent.id AND finished_at IS NULL;

-- running --
WITH begun (tenant, id, at) AS (VALUES [(?, ?, ?)])
UPDATE commands INDEXED BY commands_open SET state = 'running', started_at = coalesce(started_at, begun.at)
FROM begun
WHERE commands.tenant = begun.tenant AND commands.id = begun.id AND finished_at IS NULL;

-- requeue --
UPDATE commands SET state = 'queued', failures = :failures, not_before = :not_before, error = :error
WHERE tenant = :tenant AND id = :id AND finished_at IS NULL;

-- add_step --
INSERT INTO steps (number, at, step, attempt, agent, phase, started_at, outcome, error, detail, outputs)
SELECT number, :at, :step, :attempt, :agent, :phase, :started_at, :outcome, :error, :detail, :outputs
FROM commands WHERE tenant = :tenant AND id = :id;

-- steps --
SELECT :id, at, step, attempt, steps.agent, phase, steps.started_at, outcome, steps.error, detail, steps.outputs
FROM steps
WHERE number = (SELECT number FROM commands WHERE tenant = :tenant AND id = :id)
ORDER BY at, position;

-- keep_doubt --
-- What was known before somebody found out.
INSERT INTO steps (number, at, step, attempt, agent, phase, started_at, outcome, error, detail)
SELECT number, :at, 'resolved', epoch, coalesce(agent, ''), '', dispatched_at, state, error, :detail
FROM commands WHERE tenant = :tenant AND id = :id AND state = 'in_doubt';

-- resolve --
-- What had happened has the outputs that a late answer told of it.
UPDATE commands SET
    state = :state, error = :error, resolution = :resolution,
    outputs = CASE :state WHEN 'succeeded' THEN coalesce(outputs, (
        SELECT steps.outputs FROM steps
        WHERE steps.number = commands.number AND step = 'late_answer' AND outcome = 'succeeded'
        ORDER BY at DESC LIMIT 1
    )) ELSE outputs END
WHERE tenant = :tenant AND id = :id AND state = 'in_doubt'
RETURNING correlation_id;

-- command_by_replay_of --
SELECT {command} FROM commands WHERE tenant = :tenant AND replay_of = :replay_of;

-- replayed --
UPDATE commands SET replayed_by = :id
WHERE tenant = :tenant AND id = :replay_of AND finished_at IS NOT NULL AND replayed_by IS NULL;

-- request_cancel --
UPDATE commands SET cancel_requested = 1
WHERE tenant = :tenant AND id = :id AND finished_at IS NULL AND NOT cancel_requested
RETURNING correlation_id;

-- to_finish --
-- One row for all of them: each further one would be a further step.
WITH ended (position, tenant, id) AS (VALUES [(?, ?, ?)])
SELECT json_group_array(
    json_array(position, number, operation, effect, agent, epoch, journal, correlation_id)
)
FROM ended CROSS JOIN commands INDEXED BY commands_open
WHERE commands.tenant = ended.tenant AND commands.id = ended.id AND finished_at IS NULL;

-- finish --
WITH ended (number, state, begun, at, outputs, row_sets, error, warnings, result, proof, agent, epoch, journal) AS (
    VALUES [(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]
)
UPDATE commands SET
    state = ended.state, started_at = coalesce(started_at, ended.begun), finished_at = ended.at,
    outputs = ended.outputs, row_sets = nullif(ended.row_sets, ''), error = nullif(ended.error, ''),
    warnings = nullif(ended.warnings, ''), result = ended.result, proof = ended.proof,
    agent = ended.agent, epoch = ended.epoch, journal = ended.journal
FROM ended
WHERE commands.number = ended.number;

-- keep_inline_results --
INSERT INTO inline_results (number, rows) VALUES [(?, ?)];

-- count_dead_letters --
SELECT count(*), coalesce(sum(state = 'in_doubt'), 0) FROM (
    SELECT state FROM commands
    WHERE tenant = :tenant AND state IN ('failed', 'in_doubt', 'expired')
    {wishes}
    LIMIT :limit
);

-- dead_letters_after --
SELECT {listed_command} FROM commands
WHERE tenant = :tenant AND state IN ('failed', 'in_doubt', 'expired') AND id > :cursor
{wishes}
ORDER BY id
LIMIT :limit;

-- add_replay_run --
INSERT INTO replay_runs ({run}) VALUES (
    :id, :tenant, :wanted, :total, :rate, :by, :created_at, :state, :cursor, :replayed, :skipped_count, :skipped,
    :finished_at, :idempotency_key, :fingerprint
) ON CONFLICT (tenant, idempotency_key) DO NOTHING;

-- run_by_idempotency_key --
SELECT {run} FROM replay_runs WHERE tenant = :tenant AND idempotency_key = :idempotency_key;

-- replay_run --
SELECT {run} FROM replay_runs WHERE tenant = :tenant AND id = :id;

-- replay_runs --
SELECT {run} FROM replay_runs
WHERE tenant = :tenant
{newest_first}

-- open_replay_runs --
SELECT {run} FROM replay_runs WHERE state = 'running' ORDER BY id;

-- run_replayed --
UPDATE replay_runs SET cursor = :replay_of, replayed = replayed + 1 WHERE tenant = :tenant AND id = :run;

-- run_skipped --
UPDATE replay_runs SET
    cursor = :skipped_id,
    skipped_count = skipped_count + 1,
    skipped = CASE WHEN skipped_count < :most
        THEN json_insert(skipped, '$[#]', json_object('id', :skipped_id, 'why', :why)) ELSE skipped END
WHERE tenant = :tenant AND id = :id;

-- end_replay_run --
UPDATE replay_runs SET state = :state, finished_at = :now
WHERE tenant = :tenant AND id = :id AND state = 'running';

-- expire_approvals --
UPDATE approvals SET state = 'expired' WHERE tenant = :tenant AND state = 'open' AND expires_at <= :now;

-- approval_like --
SELECT {approval_columns} FROM approvals
WHERE tenant = :tenant
    AND (idempotency_key = :idempotency_key OR (state = 'open' AND fingerprint = :fingerprint))
ORDER BY idempotency_key IS :idempotency_key DESC
LIMIT 1;

-- add_approval --
INSERT INTO approvals ({approval_columns}) VALUES (
    :id, :tenant, :act, :target, :summary, :request, :by, :owner, :created_at, :expires_at, :fingerprint,
    :idempotency_key, :state, :decided_by, :decided_owner, :decided_at, :note, :result
);

-- approval --
SELECT {approval_columns} FROM approvals WHERE tenant = :tenant AND id = :id;

-- approvals --
SELECT {approval_columns} FROM approvals
WHERE tenant = :tenant
    AND (:state IS NULL OR :state = CASE WHEN state = 'open' AND expires_at <= :now THEN 'expired' ELSE state END)
{newest_first}

-- decide_approval --
UPDATE approvals SET
    state = :state, decided_by = :decided_by, decided_owner = :decided_owner, decided_at = :now, note = :note
WHERE tenant = :tenant AND id = :id AND state = 'open' AND expires_at > :now;

-- end_approval --
UPDATE approvals SET state = :state, result = :result WHERE tenant = :tenant AND id = :id AND state = 'approved';

-- approvals_to_do --
SELECT {approval_columns} FROM approvals WHERE state = 'approved' ORDER BY id;

-- forget_approvals_before --
DELETE FROM approvals WHERE max(created_at, coalesce(decided_at, expires_at)) < :before AND state <> 'approved';

-- forget_runs_before --
DELETE FROM replay_runs WHERE finished_at < :before;

-- forget_before --
-- Not those in doubt: nobody knows yet whether they happened. Who finds out then has time to act on it.
DELETE FROM commands WHERE number IN (
    SELECT number FROM commands
    WHERE finished_at < :before AND state <> 'in_doubt'
        AND (resolution IS NULL OR json_extract(resolution, '$.at') < :before)
    ORDER BY finished_at LIMIT :limit
) RETURNING tenant, id, result;
