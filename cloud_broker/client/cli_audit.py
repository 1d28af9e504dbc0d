"""``outhaul audit``: who did what."""

from __future__ import annotations

import re
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from cloud_broker.client.call import tell
from cloud_broker.client.connect import DONE, as_json, connected
from cloud_broker.client.output import local, moment, tables, write_items

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.audit import AuditFilter, AuditRecord

_HASH: Final = re.compile(r"\b[0-9a-f]{32,}\b")


@click.command()
@click.option("--action", metavar="NAME", help="Only this, such as key_created.")
@click.option("--target", metavar="THING", help="Only what was done to this, such as command:cmd_01….")
@click.option("--since", metavar="TIME", help="Only later: 1h, 2d, 2026-01-31 or 2026-01-31T14:00:00+01:00.")
@click.option(
    "--chain",
    type=click.Choice(["tenant", "broker"]),
    default="tenant",
    show_default=True,
    help="`broker`: its own acts, which concern no tenant; for a key that spans tenants.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="At most so many."
)
@click.option(
    "--export", is_flag=True, help="All of it as JSON lines, oldest first, for `outhaul-broker verify-audit`."
)
@as_json
@connected
def audit(
    client: Outhaul,
    action: str | None,
    target: str | None,
    since: str | None,
    chain: Literal["tenant", "broker"],
    limit: int,
    export: bool,
    as_json: bool,
) -> int:
    """List who did what, newest first."""
    later = moment("--since", since) if since is not None else None
    wanted: AuditFilter = {"action": action, "target": target, "since": later, "chain": chain}
    if export:
        for line in client.audit_lines(**wanted):
            sys.stdout.buffer.write(line + b"\n")
        return DONE
    found = client.audit(**wanted)
    shown = list(islice(found, limit))
    if as_json:
        return write_items(record.raw for record in shown)
    if shown:
        tables().facts(
            ["number", "time", "who", "did", "to", "what", "correlation id"],
            [
                (
                    one.number,
                    local(one.at),
                    one.actor,
                    one.action.replace("_", " "),
                    one.target,
                    _what(one),
                    one.correlation_id,
                )
                for one in shown
            ],
        )
    else:
        tell("nothing was noted")
    if next(found, None) is not None:
        tell(f"there are more than {limit}: --limit shows more, --export all")
    return DONE


def _what(record: AuditRecord) -> str:
    """Return the detail in one line; digests are for programs."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in record.detail.items() if not _is_digest(value))


def _is_digest(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.startswith("sha256:"))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    # Whole hashes are for programs: --json and --export have them.
    return "…" if isinstance(value, dict) else _HASH.sub(lambda found: f"{found[0][:8]}…", str(value))
