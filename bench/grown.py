"""A store with as many finished commands as are wanted, made by SQL alone and kept for the next run."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from cloud_broker.store.queries import QUERIES, SCHEMA, statements

TENANT: Final = "acme"
STARTED: Final = 1_700_000_000.0  # when the first of them was submitted; five a second
# What a finished command has in its columns; the others are empty. Its ids sort before those of today.
COLUMNS: Final = {
    "number": "n",
    "id": "'cmd_' || printf('%026d', n)",
    "tenant": f"'{TENANT}'",
    "agent": "'plant-1'",
    "operation": "'echo'",
    "connection": "'probe'",
    "effect": "'read'",
    "params": "CAST('{\"text\": \"' || hex(randomblob(100)) || '\"}' AS BLOB)",
    "fingerprint": "lower(hex(randomblob(32)))",
    "created_at": f"{STARTED} + n * 0.2",
    "expires_at": f"{STARTED} + 3600 + n * 0.2",
    "state": "'succeeded'",
    "epoch": "1",
    "journal": "'journal'",
    "correlation_id": "'cor_' || printf('%026d', n)",
    "idempotency_key": "lower(hex(randomblob(16)))",
    "priority": "0",
    "traceparent": "''",
    "key_id": "'key_1'",
    "cancel_requested": "0",
    "started_at": f"{STARTED} + n * 0.2",
    "finished_at": f"{STARTED} + 1 + n * 0.2",
    "outputs": 'CAST(\'{"text": "ok"}\' AS BLOB)',
    "result": "'none'",
    "dispatched_at": f"{STARTED} + n * 0.2",
    "failures": "0",
    "sealed": "0",
    "signature": "''",
    "seal_to": "''",
    "proof": "''",
    "operation_digest": "lower(hex(randomblob(32)))",
    "rows_as": "'ndjson'",
}
FILL: Final = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
INSERT INTO commands ({names}) SELECT {values} FROM numbers
"""
# Each left two records in the audit trail; their hashes are as long as true ones, and nobody verifies them here.
NOTE: Final = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
INSERT INTO audit SELECT '{tenant}', n, '2026-01-01T00:00:00.000000Z', 'key:key_1', 'command_submitted',
    'command:cmd_' || printf('%026d', n / 2), 'cor_' || printf('%026d', n / 2),
    '{{"agent":"plant-1","effect":"read","operation":"echo","params":"sha256:' || hex(randomblob(32)) || '"}}',
    randomblob(32), randomblob(32)
FROM numbers
"""


def store(folder: Path, count: int) -> Path:
    """Return a store with so many finished commands of ``TENANT``; made if this schema's is not there, in minutes."""
    mark = hashlib.sha256((SCHEMA + FILL + NOTE + repr(COLUMNS)).encode()).hexdigest()[:12]
    path = folder / f"store-{count}-{mark}.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"store-{count}-*"):
            old.unlink()
        print(f"making a store with {count:,} finished commands")
        new = path.with_name(f"new-{path.name}")
        new.unlink(missing_ok=True)
        _make(new, count)
        new.rename(path)
    return path


def _make(path: Path, count: int) -> None:
    script = statements(SCHEMA)
    # To fill a table and index it afterwards takes a fraction of the time.
    late = [statement for statement in script if " INDEX " in statement or " TRIGGER " in statement]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(QUERIES["shrinks"])
        for statement in script:
            if statement not in late:
                connection.execute(statement)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "threads = 2"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        connection.execute(QUERIES["add_tenant"], {"name": TENANT, "now": STARTED})
        names, values = ", ".join(COLUMNS), ", ".join(COLUMNS.values())
        connection.execute(FILL.format(count=count, names=names, values=values))
        connection.execute(NOTE.format(count=2 * count, tenant=TENANT))
        for statement in late:
            connection.execute(statement)
        connection.execute("COMMIT")
