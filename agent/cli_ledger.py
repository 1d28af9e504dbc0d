"""``outhaul-agent ledger``: the table behind ``effect = "once"``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agent.cli_options import config_option, json_option, show
from agent.connectors.odbc.connection_string import dialect_in, driver_in
from agent.connectors.odbc.ledger_tables import LEDGER_TABLES, script
from agent.errors import ConfigError
from agent.operator_file import load

if TYPE_CHECKING:
    from agent.settings import OdbcConnection

DEFAULT_TABLE: Final = "outhaul_ledger"


@click.group()
def ledger() -> None:
    """The table behind effect = "once"."""


@ledger.command("sql")
@click.option("--dialect", type=click.Choice(list(LEDGER_TABLES)), help="For this database; the file is not looked at.")
@click.option("--table", help=f"The table's name; default: the connection's `ledger`, or {DEFAULT_TABLE}.")
@config_option
@json_option
def sql(dialect: str | None, table: str | None, config: Path | None, as_json: bool) -> None:
    """Print its DDL, with the rights that the agent needs, for each connection that names one."""
    if dialect is not None:
        wanted = [("", dialect, table or DEFAULT_TABLE)]
    else:
        loaded = load(config)
        wanted = [
            (name, _dialect(connection), table or connection.ledger)
            for name, connection in loaded.settings.connections.items()
            if connection.type == "odbc" and connection.ledger is not None
        ]
        unknown = [name for name, known, _ in wanted if not known]
        if unknown or not wanted:
            what = f"connections.{unknown[0]} does not tell which database it is" if unknown else "no ledger is named"
            raise ConfigError(f"{loaded.path}: {what}; say it: outhaul-agent ledger sql --dialect DIALECT")
    if as_json:
        show(
            [
                {"connection": name, "dialect": known, "table": its_table, "sql": script(known, its_table)}
                for name, known, its_table in wanted
            ]
        )
        return
    click.echo("\n".join(script(known, its_table) for _, known, its_table in wanted), nl=False)


def _dialect(connection: OdbcConnection) -> str:
    """Return the dialect as the file tells it; "" where only the database could."""
    if connection.dialect != "auto":
        return connection.dialect if connection.dialect in LEDGER_TABLES else ""
    return dialect_in(driver_in(connection.connection_string))
