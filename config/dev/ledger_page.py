"""The page of the ledger's table, with its DDL for each database."""

from __future__ import annotations

from typing import Final

from agent.cli_ledger import DEFAULT_TABLE
from agent.connectors.odbc.ledger_tables import LEDGER_TABLES, script
from config.dev.markdown import table

NAMES: Final = {
    "postgresql": "PostgreSQL",
    "mariadb": "MariaDB, MySQL",
    "sqlite": "SQLite",
    "sqlserver": "SQL Server (not tried on a real server)",
    "oracle": "Oracle (not tried on a real server)",
    "db2": "Db2 (not tried on a real server)",
}
COLUMNS: Final = (
    ("`command_id`", "primary key: the broker's id of the command"),
    ("`fingerprint`", "SHA-256 of operation and parameters, hex; the same id with another one is `journal_conflict`"),
    ("`operation`", "its name in the agent's file"),
    ("`attempt`", "the attempt that wrote the row last"),
    ("`state`", "`begun`, `done` or `void`, see below"),
    ("`outcome`", "JSON in ASCII: outputs, and columns and number of rows of each row set; only where it is `done`"),
    ("`written_at`", "when, by the database's clock; in UTC where the column has no zone"),
)
STATES: Final = (
    ("`done`", "the work is committed; a repeat is given the outcome and runs nothing"),
    ("`void`", "the attempt was looked for and had no effect; it can't have one any more, a later attempt may"),
    (
        "`begun`",
        "the work ended the transaction by itself; it never runs again, and is `outcome_unknown` until a person has "
        "looked. Of all other work this state is never seen from outside",
    ),
)
ABOUT: Final = """
`effect = "once"` on a database needs a table there, named by the connection's `ledger`. The agent inserts a row into it
as the first thing in the transaction of a command's work, and completes the row with the outcome before it commits. So
the row is there exactly if the work is. When an answer was lost, the agent looks for the row on another session, and
inserts one of state `void` if there is none, which waits for the lost transaction to end.

`outhaul-agent ledger sql` prints the table for the connections in the agent's file; `outhaul-agent check` tries it.
[Make an order exactly once](../howto/make-an-order-exactly-once.md) shows it step by step.

The agent's account needs `SELECT`, `INSERT` and `UPDATE` on the table, and no `DELETE`. A row has a few hundred bytes
and the outputs. Rows of the operation `(agent)` say which agents work with this ledger, for
[groups](../explanation/delivery.md#groups). Other rows may be deleted once nobody can ask for them any more: longer
ago than the broker keeps commands, and no sooner than 90 days.
"""
REFUSED: Final = (
    (
        "a procedure of PostgreSQL with `COMMIT` or `ROLLBACK`, also in what it calls",
        "in its text: by `check`, and before its first run in a session; else by the database (2D000)",
        "`not_allowed`",
    ),
    (
        "a procedure of MariaDB with `COMMIT`, `ROLLBACK`, `START TRANSACTION`, `SET autocommit`, `LOCK TABLES` or "
        "DDL, also in what it calls",
        "in its text, where the account may read it",
        "`not_allowed`",
    ),
    (
        "the same in a text that can't be read, or in dynamic SQL",
        "after it ran, by a savepoint that is gone",
        "`outcome_unknown`; it never runs again",
    ),
    (
        "a procedure of SQL Server or Oracle that ends the transaction",
        "after it ran, by the transaction's number",
        "`outcome_unknown`; it never runs again",
    ),
    ("a procedure of Db2 that ends the transaction", "not found; see to it yourself", ""),
    (
        "work on a table of MariaDB whose engine has no transactions (MyISAM, Aria)",
        "by the table's name in the text",
        "`not_allowed`",
    ),
    ("`COMMIT` and the like in an operation's own `sql`", "when the file is read", "an error in the file"),
    (
        "a ledger that is missing, has other columns, no primary key or an engine without transactions, or may not be "
        "written",
        "by `check`, and before the first run in a session",
        "`source_failed`",
    ),
)
WAY_OUT: Final = """
The way out is to take the statement out, or to make the operation `at-most-once` with a `verify`.
Where such work fails or is stopped, a rollback does not tell that nothing is left: if its text ends the transaction, or
MariaDB's savepoint is gone, it is `outcome_unknown`, `verify` is asked, and it is not simply run again.

What a trigger writes into a table without transactions, and what reaches another system (mail, a file, a linked
server), is not part of the transaction and not seen.
"""


def page() -> str:
    """Return the reference of the ledger."""
    parts = [
        "# The ledger",
        "",
        "Made from `agent/connectors/odbc/ledger_tables.py` by `python -m config.dev.reference`.",
        ABOUT,
        *table(("column", "holds"), COLUMNS),
        "",
        *table(("state", "means"), STATES),
        "",
        "## What can't be once",
        "",
        *table(("what", "found", "told as"), REFUSED),
        WAY_OUT,
        "## The table",
    ]
    for dialect in LEDGER_TABLES:
        parts += ["", f"### {NAMES[dialect]}", "", "```sql", script(dialect, DEFAULT_TABLE).rstrip("\n"), "```"]
    return "\n".join(parts) + "\n"
