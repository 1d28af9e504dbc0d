"""``outhaul-agent selfcheck``."""

from __future__ import annotations

import sys

import click

from agent.cli_options import json_option, show
from agent.exit_codes import FAILED


@click.command()
@json_option
def selfcheck(as_json: bool) -> None:
    """Try every part of this program itself; needs no file and no network."""
    # It loads every part, which no other command does.
    from agent.selfcheck import everything

    findings = everything()
    if as_json:
        show([{"subject": one.subject, "ok": one.ok, "detail": one.detail, "fix": one.fix} for one in findings])
    else:
        for one in findings:
            click.echo(f"{'ok' if one.ok else 'FAILED':<6}  {one.subject}: {one.detail}")
            if one.fix:
                click.echo(f"        fix: {one.fix}")
    if not all(one.ok for one in findings):
        sys.exit(FAILED)
