"""
The ledger's table in each database: its DDL, and the statements on it.

Only texts, without a driver, so that ``outhaul-agent ledger sql`` can print them anywhere.

======================  =====================================================================================
column                  holds
======================  =====================================================================================
``command_id``          primary key; the broker's id of the command
``fingerprint``         SHA-256 of operation and parameters, hex: the same id with another one is refused
``operation``           its name in the agent's file
``attempt``             the attempt (epoch) that wrote the row last
``state``               ``begun``, ``done`` or ``void`` (see ``ledger.py``)
``outcome``             JSON, ASCII: outputs, and columns and number of rows of each row set; null unless ``done``
``written_at``          the database's clock, UTC where its type has no zone
======================  =====================================================================================
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_ID: Final = 64  # characters of a command's id, of a fingerprint and of an operation's name
AGENT: Final = "(agent)"  # the operation of a row that says that an agent works with this ledger


class LedgerTable(msgspec.Struct, frozen=True):
    """
    The texts for one database; ``{table}`` is the connection's ``ledger``.

    Attributes:
        create: the table's DDL.
        insert: adds a row (command_id, fingerprint, operation, attempt, state) unless one of that id is there;
            waits for a transaction that has written one and not ended.
        raises_if_there: whether ``insert`` fails where a row is there, instead of adding none. Only where a failed
            statement leaves the transaction as it was.
        read: the row of a command_id as last committed, locked until the end of the transaction.
        take_over: makes a ``void`` row ``begun`` or newer: (state, attempt, command_id).
        finish: makes it ``done``: (outcome, command_id, attempt).
        rights: grants what the agent's account needs.
        prune: 90 days ago.
        remove: removes rows of commands that nobody can ask for any more.
        server: asks which database this is, of all servers: a copy of it is another; "" where it is a file.
    """

    create: str
    insert: str
    raises_if_there: bool = False
    read: str = "SELECT fingerprint, operation, attempt, state, outcome FROM {table} WHERE command_id = ? FOR UPDATE"
    take_over: str = (
        "UPDATE {table} SET state = ?, attempt = ?, written_at = {now} WHERE command_id = ? AND state = 'void'"
    )
    finish: str = (
        "UPDATE {table} SET state = 'done', outcome = ?, written_at = {now} "
        "WHERE command_id = ? AND attempt = ? AND state = 'begun'"
    )
    rights: str = "GRANT SELECT, INSERT, UPDATE ON {table} TO agents_account"
    prune: str = ""
    remove: str = "DELETE FROM {table} WHERE written_at < {prune} AND operation <> '(agent)'"
    now: str = "CURRENT_TIMESTAMP"
    server: str = ""

    def text(self, name: str, table: str) -> str:
        """Return one of the texts for ``table``."""
        text: str = getattr(self, name)
        return text.replace("{table}", table).replace("{now}", self.now).replace("{prune}", self.prune)


_COLUMNS: Final = "(command_id, fingerprint, operation, attempt, state, written_at)"
_INSERT: Final = "INSERT INTO {table} " + _COLUMNS + " VALUES (?, ?, ?, ?, ?, {now})"  # noqa: S608 # names of ours
_INSERT_UNLESS_THERE: Final = _INSERT + " ON CONFLICT (command_id) DO NOTHING"

_POSTGRESQL: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  varchar(64) NOT NULL PRIMARY KEY,
    fingerprint varchar(64) NOT NULL,
    operation   varchar(64) NOT NULL,
    attempt     integer     NOT NULL,
    state       varchar(8)  NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     text,
    written_at  timestamptz NOT NULL
)""",
    insert=_INSERT_UNLESS_THERE,
    prune="now() - interval '90 days'",
    now="clock_timestamp()",
    server="SELECT current_database() || '/' || system_identifier FROM pg_control_system()",
)
_MARIADB: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    fingerprint varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    operation   varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    attempt     integer     NOT NULL,
    state       varchar(8)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     longtext    CHARACTER SET ascii,
    written_at  datetime(6) NOT NULL
) ENGINE = InnoDB""",
    # Not INSERT IGNORE, which would also take values that do not fit; and not a plain INSERT, whose failure leaves a
    # shared lock, with which two that meet a third one's row block each other.
    insert=_INSERT + " ON DUPLICATE KEY UPDATE attempt = attempt",
    prune="utc_timestamp() - INTERVAL 90 DAY",
    now="utc_timestamp(6)",
    server="SELECT concat(@@hostname, ':', @@port, '/', database())",
)
_SQLITE: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  text    NOT NULL PRIMARY KEY,
    fingerprint text    NOT NULL,
    operation   text    NOT NULL,
    attempt     integer NOT NULL,
    state       text    NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     text,
    written_at  text    NOT NULL
)""",
    insert=_INSERT_UNLESS_THERE,
    # The whole file is locked by the INSERT that came before.
    read="SELECT fingerprint, operation, attempt, state, outcome FROM {table} WHERE command_id = ?",
    rights="",
    prune="strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-90 days')",
    now="strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
)
_SQLSERVER: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  varchar(64)   COLLATE Latin1_General_BIN2 NOT NULL PRIMARY KEY,
    fingerprint varchar(64)   COLLATE Latin1_General_BIN2 NOT NULL,
    operation   varchar(64)   COLLATE Latin1_General_BIN2 NOT NULL,
    attempt     int           NOT NULL,
    state       varchar(8)    COLLATE Latin1_General_BIN2 NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     varchar(max),
    written_at  datetime2(6)  NOT NULL
)""",
    # The range of the missing key stays locked from the look to the insert, and waits for another's.
    insert="INSERT INTO {table} (command_id, fingerprint, operation, attempt, state, written_at) "
    "SELECT v.*, {now} FROM (VALUES (CAST(? AS varchar(64)), CAST(? AS varchar(64)), CAST(? AS varchar(64)), "
    "CAST(? AS int), CAST(? AS varchar(8)))) AS v (command_id, fingerprint, operation, attempt, state) "
    "WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WITH (UPDLOCK, HOLDLOCK) WHERE t.command_id = v.command_id)",
    read="SELECT fingerprint, operation, attempt, state, outcome FROM {table} WITH (UPDLOCK, HOLDLOCK) "
    "WHERE command_id = ?",
    prune="DATEADD(day, -90, SYSUTCDATETIME())",
    now="SYSUTCDATETIME()",
    server="SELECT CONCAT(@@SERVERNAME, '/', DB_NAME())",
)
_ORACLE: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  VARCHAR2(64) NOT NULL PRIMARY KEY,
    fingerprint VARCHAR2(64) NOT NULL,
    operation   VARCHAR2(64) NOT NULL,
    attempt     NUMBER(10)   NOT NULL,
    state       VARCHAR2(8)  NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     CLOB,
    written_at  TIMESTAMP(6) NOT NULL
)""",
    # A failed statement is undone alone; the transaction goes on.
    insert=_INSERT,
    raises_if_there=True,
    prune="SYS_EXTRACT_UTC(SYSTIMESTAMP) - INTERVAL '90' DAY",
    now="SYS_EXTRACT_UTC(SYSTIMESTAMP)",
    server="SELECT SYS_CONTEXT('USERENV', 'DB_UNIQUE_NAME') || '/' || SYS_CONTEXT('USERENV', 'CON_NAME') FROM dual",
)
_DB2: Final = LedgerTable(
    create="""CREATE TABLE {table} (
    command_id  VARCHAR(64)  NOT NULL PRIMARY KEY,
    fingerprint VARCHAR(64)  NOT NULL,
    operation   VARCHAR(64)  NOT NULL,
    attempt     INTEGER      NOT NULL,
    state       VARCHAR(8)   NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     CLOB(8M),
    written_at  TIMESTAMP(6) NOT NULL
)""",
    insert=_INSERT,
    raises_if_there=True,
    read="SELECT fingerprint, operation, attempt, state, outcome FROM {table} WHERE command_id = ? "
    "WITH RS USE AND KEEP UPDATE LOCKS",
    prune="CURRENT TIMESTAMP - CURRENT TIMEZONE - 90 DAYS",
    now="CURRENT TIMESTAMP - CURRENT TIMEZONE",
    server="SELECT CURRENT SERVER FROM SYSIBM.SYSDUMMY1",
)

LEDGER_TABLES: Final[dict[str, LedgerTable]] = {
    "postgresql": _POSTGRESQL,
    "mariadb": _MARIADB,
    "sqlite": _SQLITE,
    "sqlserver": _SQLSERVER,
    "oracle": _ORACLE,
    "db2": _DB2,
}


def script(dialect: str, table: str) -> str:
    """Return the DDL of ``table`` with remarks, as a script of that database."""
    texts = LEDGER_TABLES[dialect]
    lines = [
        f'-- {dialect}: the ledger behind effect = "once". Run it once, as the owner of the ERP\'s tables.',
        f"{texts.text('create', table)};",
    ]
    if texts.rights:
        lines += [
            "-- The agent's account may read, add and change rows, and remove none; write its name for agents_account:",
            f"-- {texts.text('rights', table)};",
        ]
    else:
        lines.append("-- The agent's account needs to write the database's file and its folder.")
    lines += [
        "-- Rows may be removed once nobody can ask for them: longer ago than the broker keeps commands, and no "
        "sooner than 90 days. From time to time:",
        f"-- {texts.text('remove', table)};",
    ]
    return "\n".join(lines) + "\n"
