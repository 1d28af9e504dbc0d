"""``outhaul-agent check``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli_options import DONE, FAILED, NOT_REACHABLE, WRONG_WORDS, config_option, find_file, json_option, show

# Deferred, as in `agent.cli`: `--help` and `run` start without it.
if TYPE_CHECKING:
    from agent.connectors.base import Finding


@click.command()
@click.argument("operation", required=False)
@config_option
@json_option
def check(operation: str | None, config: Path | None, as_json: bool) -> None:
    """Try every part, or one OPERATION: file, secrets, identity, network, connections, operations."""
    from agent.check import stages

    path = find_file(config)
    found = asyncio.run(_told(stages.everything(path, operation), as_json))
    if as_json:
        show({"ok": all(one.ok is not False for one in found), "stages": [fact(one) for one in found]})
    sys.exit(exit_code(found))


def fact(finding: Finding) -> dict[str, Any]:
    """Return a finding as ``--json`` shows it."""
    return {
        "stage": finding.stage,
        "subject": finding.subject,
        "ok": finding.ok,
        "detail": finding.detail,
        "code": finding.code,
        "fix": finding.fix,
        "seconds": None if finding.seconds is None else round(finding.seconds, 3),
    }


def exit_code(found: list[Finding]) -> int:
    """Return 0 if nothing failed, 2 if the file is wrong, 3 if only the way to the broker failed, else 1."""
    from agent.check.network import STAGES
    from agent.check.stages import FILE

    failed = {one.stage for one in found if one.ok is False}
    if not failed:
        return DONE
    if FILE in failed:
        return WRONG_WORDS
    return NOT_REACHABLE if failed <= {"network", *STAGES} - {"identity"} else FAILED


async def _told(findings: AsyncIterator[Finding], quietly: bool) -> list[Finding]:
    found = []
    async for finding in findings:
        found.append(finding)
        if not quietly:
            _tell(finding)
    return found


def _tell(finding: Finding) -> None:
    word, colour = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("note", "yellow")}[finding.ok]
    click.echo(f"{click.style(f'{word:<6}', fg=colour)}  {finding.subject}: {finding.detail}")
    if finding.ok is False and finding.fix:
        click.echo(f"        fix: {finding.fix}")
