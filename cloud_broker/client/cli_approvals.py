"""``outhaul approvals``: what waits for a second person, and the person's word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import click

from cloud_broker.client.call import tell
from cloud_broker.client.connect import DONE, FAILED, NOT_ALLOWED, as_json, connected
from cloud_broker.client.output import local, tables, write, write_items
from cloud_broker.client.records import Approval

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul

STATES = ("open", "approved", "done", "failed", "refused", "withdrawn", "expired")
Decision = Literal["approve", "refuse", "withdraw"]


@click.group()
def approvals() -> None:
    """Acts that two people want: one asks for them, another decides."""


@approvals.command("list")
@click.option("--state", type=click.Choice(STATES), default="open", show_default=True, help="Only in this state.")
@click.option("--all", "everything", is_flag=True, help="In any state.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="At most so many."
)
@as_json
@connected
def list_approvals(client: Outhaul, state: str, everything: bool, limit: int, as_json: bool) -> int:
    """List what waits for somebody to decide, newest first."""
    found = list(islice(client.approvals(state=None if everything else state), limit))
    if as_json:
        return write_items(approval.raw for approval in found)
    if not found:
        tell("no approvals")
        return DONE
    tables().facts(
        ["id", "act", "of", "asked by", "when", "until", "state", "what came of it"],
        [_row(one) for one in found],
        whole=1,
    )
    return DONE


def _decision(how: Decision, help_text: str) -> None:
    """Add the command of one decision."""

    @approvals.command(how, help=help_text)
    @click.argument("approval_id", metavar="ID")
    @click.option("--note", default="", metavar="TEXT", help="For those who ask later.")
    @as_json
    @connected
    def decide(client: Outhaul, approval_id: str, note: str, as_json: bool) -> int:
        approval = client.decide(approval_id, how, note=note)
        if as_json:
            write(approval.raw)
        else:
            tell(f"{approval.id}: {approval.state}" + (f": {approval.result}" if approval.result else ""))
        return FAILED if approval.state == "failed" else DONE


_decision("approve", "Let an act be done that somebody else asked for.")
_decision("refuse", "Decide that an act is not done that somebody else asked for.")
_decision("withdraw", "Take back what you asked for.")


def tell_waiting(approval: Approval, as_json: bool) -> int:
    """Say that an act waits for a second person; return the exit code: one alone was not allowed to do it."""
    tell(
        f"not done yet: {approval.summary} wants two people; it waits as {approval.id} until "
        f"{local(approval.expires_at)}"
    )
    tell(f"another person decides: outhaul approvals approve {approval.id}, or refuse; withdraw takes it back")
    if as_json:
        write(approval.raw)
    return NOT_ALLOWED


def _row(approval: Approval) -> Sequence[Any]:
    return (
        approval.id,
        approval.summary,
        approval.target,
        approval.owner,
        local(approval.created_at),
        local(approval.expires_at),
        approval.state,
        approval.result,
    )
