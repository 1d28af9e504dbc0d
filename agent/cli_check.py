"""``outhaul-agent check``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli_options import config_option, json_option, show
from agent.errors import ConfigError
from agent.exit_codes import DONE, FAILED, NOT_REACHABLE, WRONG_WORDS
from agent.operator_file import find_file
from protocol.plain_text import plain

# Deferred, as in `agent.cli`: `--help` and `run` start without it.
if TYPE_CHECKING:
    from agent.connectors.base import Finding

WORDS: Final = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("note", "yellow")}


@click.command()
@click.argument("operation", required=False)
@click.option("--here", is_flag=True, help="With this account and in this process, also where an agent runs.")
@click.option("--stream", is_flag=True, help="A line of JSON for each finding, as it is found.")
@config_option
@json_option
def check(operation: str | None, here: bool, stream: bool, config: Path | None, as_json: bool) -> None:
    """
    Try every part, or one OPERATION and what it needs: file, clock, folder, secrets, network, connections, operations.

    It is tried as the service would: by the running agent itself, or with its account where root asks. Nothing is run
    and nothing changed. Exit code: 0 all is well, 1 something failed, 2 the file is wrong, 3 only the network failed.
    """
    tell = _tell_line if stream else _keep_quiet if as_json else _tell
    found = look(find_file(config).absolute(), operation, tell, here=here)
    if as_json:
        show(document(found))
    sys.exit(exit_code(found))


def look(
    path: Path,
    operation: str | None,
    tell: Callable[[Finding], None],
    *,
    here: bool = False,
) -> list[Finding]:
    """
    Try every part with the service's own account, as far as that can be; return what was found.

    Args:
        path: of the operator's file, absolute.
        tell: called with each finding when it is there.
        here: whether this process is to try it.
    """
    from agent.check import account, request, stages

    reason = ""
    state_dir = None if here else _state_dir(path)
    if state_dir is not None:
        if _runs(state_dir):
            found = []
            try:
                for finding in request.ask(state_dir, request.Request(str(path), operation)):
                    tell(finding)
                    found.append(finding)
                return found
            except request.Declined as exc:
                reason = str(exc)
        reason = account.take_on_that_of(state_dir) or reason
    first = account.told(by_agent=request.BY_AGENT in os.environ, reason=reason)
    tell(first)
    return [first, *asyncio.run(_tried(stages.everything(path, operation), tell))]


def document(found: list[Finding]) -> dict[str, Any]:
    """Return findings as ``--json`` shows them."""
    return {"ok": all(one.ok is not False for one in found), "stages": [_fact(one) for one in found]}


def exit_code(found: list[Finding]) -> int:
    """Return 0 if nothing failed, 2 if the file is wrong, 3 if only the way to the broker failed, else 1."""
    from agent.check.stages import FILE, REACHING

    failed = {one.stage for one in found if one.ok is False}
    if not failed:
        return DONE
    if FILE in failed:
        return WRONG_WORDS
    return NOT_REACHABLE if failed <= REACHING else FAILED


def _state_dir(path: Path) -> Path | None:
    from agent import config_file

    try:
        loaded = config_file.load(path)
    except ConfigError:
        return None  # which is what the check will say
    return loaded.base_dir / loaded.settings.state_dir


def _runs(state_dir: Path) -> bool:
    from agent.journal import lock

    try:
        return lock.held(state_dir)
    except OSError:
        return False  # not ours to look at, which is what the check will say


async def _tried(findings: AsyncIterator[Finding], tell: Callable[[Finding], None]) -> list[Finding]:
    found = []
    async for finding in findings:
        tell(finding)
        found.append(finding)
    return found


def _fact(finding: Finding) -> dict[str, Any]:
    return {
        "stage": finding.stage,
        "subject": finding.subject,
        "ok": finding.ok,
        "detail": finding.detail,
        "code": finding.code,
        "fix": finding.fix,
        "seconds": None if finding.seconds is None else round(finding.seconds, 3),
    }


def _keep_quiet(finding: Finding) -> None:
    return


def _tell(finding: Finding) -> None:
    word, colour = WORDS[finding.ok]
    # Names and messages come from others: nobody there may colour our lines, or write some of their own.
    click.echo(f"{click.style(f'{word:<6}', fg=colour)}  {plain(finding.subject)}: {_lines(finding.detail)}")
    if finding.ok is not True and finding.fix:
        click.echo(f"        fix: {_lines(finding.fix)}")


def _lines(text: str) -> str:
    # The operator's file may have several mistakes, a line each.
    return "\n        ".join(map(plain, text.splitlines()))


def _tell_line(finding: Finding) -> None:
    import msgspec

    from agent.check.request import Line

    click.echo(msgspec.json.encode(Line(finding=finding)))
