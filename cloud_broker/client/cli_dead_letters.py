"""``outhaul dead-letters``, ``replay`` and ``resolve``: what needs a person, and what the person does about it."""

from __future__ import annotations

import getpass
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloud_broker.client import arguments
from cloud_broker.client.call import tell
from cloud_broker.client.cli_signing import Signing, confirm, sign_with, signer_name, tell_tenant, valid
from cloud_broker.client.connect import DONE, FAILED, Duration, as_json, connected
from cloud_broker.client.errors import NotReachable, ProblemError, WordsError
from cloud_broker.client.output import local, moment, tables, write, write_items
from cloud_broker.client.progress import Progress
from cloud_broker.client.records import DeadLetter, ReplayRun
from protocol.states import DEAD_LETTERS

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.dead_letters import Filter

LOOK_S: Final = 0.5  # seconds between two looks at a replay that somebody watches
PATIENCE_S: Final = 60.0  # seconds without an answer; a restart of the broker takes less
MOST: Final = 5000  # dead letters that one replay may be about
SAFE: Final = {"replay": "replay", "resolve_first": "resolve first"}


def which(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say which dead letters it is about."""
    for option in (
        click.option("--code", metavar="CODE", help="Only with this error code."),
        click.option("--before", metavar="TIME", help="Only earlier ones."),
        click.option("--since", metavar="TIME", help="Only later ones: 1h, 2d, 2026-01-31T14:00:00+01:00."),
        click.option("--correlation-id", metavar="C", help="Only with this one."),
        click.option("--agent", metavar="NAME", help="Only of this agent."),
        click.option("--operation", metavar="NAME", help="Only of this operation."),
        click.option(
            "--state", type=click.Choice(sorted(state.value for state in DEAD_LETTERS)), help="Only in this state."
        ),
    ):
        command = option(command)
    return command


class LettersGroup(click.Group):
    """``outhaul dead-letters`` without a word is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word in that was left out."""
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("dead-letters", cls=LettersGroup)
def dead_letters() -> None:
    """Commands that need a person, and replays of many of them."""


@dead_letters.command("list")
@which
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="At most so many."
)
@as_json
@connected
def list_letters(client: Outhaul, /, limit: int, as_json: bool, **wanted: Any) -> int:
    """List what failed, is in doubt or expired, newest first, with why and what is safe."""
    found = client.dead_letters(**_filter(wanted))
    shown = list(islice(found, limit))
    if as_json:
        return write_items(letter.raw for letter in shown)
    if shown:
        tables().facts(
            ["id", "when", "operation", "agent", "state", "attempts", "safe", "why"],
            [_row(one) for one in shown],
            whole=1,
        )
        if any(one.dead_letter.safe == "resolve_first" for one in shown):
            tell("in doubt: look in the ERP, then outhaul resolve ID --happened or --not-happened")
    else:
        tell("no dead letters")
    if next(found, None) is not None:
        tell(f"there are more than {limit}: --limit shows more")
    return DONE


def _row(letter: DeadLetter) -> Sequence[Any]:
    death = letter.dead_letter
    return (
        letter.id,
        local(letter.finished_at),
        letter.operation,
        letter.agent or letter.group,
        letter.state.replace("_", " "),
        letter.attempts,
        SAFE.get(death.safe, death.safe),
        death.why,
    )


@dead_letters.command()
@click.argument("run_id", metavar="[ID]", required=False)
@as_json
@connected
def replays(client: Outhaul, run_id: str | None, as_json: bool) -> int:
    """List the replays of many, or show the one called ID."""
    if run_id is not None:
        return _show_run(client.replay_run(run_id), as_json)
    found = list(islice(client.replay_runs(), 50))
    if as_json:
        return write_items(run.raw for run in found)
    if not found:
        tell("no replays")
        return DONE
    tables().facts(
        ["id", "state", "dead letters", "replayed", "left out", "begun", "ended"],
        [[value for _, value in _facts(run)] for run in found],
        whole=1,
    )
    return DONE


@dead_letters.command()
@click.argument("run_id", metavar="ID")
@as_json
@connected
def cancel(client: Outhaul, run_id: str, as_json: bool) -> int:
    """Stop a replay of many after the one it is at. What it has replayed stays replayed."""
    return _show_run(client.cancel_replay(run_id), as_json)


@click.command()
@click.argument("command_id", metavar="ID")
@click.option("--happened/--not-happened", "happened", default=None, help="What was found in the ERP.")
@click.option("--note", default="", metavar="TEXT", help="How it was found out, such as the document's number.")
@click.option("--who", metavar="NAME", help="Who found it; your name on this machine if it is left out.")
@as_json
@connected
def resolve(client: Outhaul, command_id: str, happened: bool | None, note: str, who: str | None, as_json: bool) -> int:
    """Say what was found out of a command in doubt.

    It becomes succeeded if it had happened; if not, it becomes failed, and can be replayed.
    """
    if happened is None:
        raise WordsError("wants --happened or --not-happened: what was found in the ERP")
    found = client.resolve(
        command_id, "happened" if happened else "not_happened", who=_me() if who is None else who, note=note
    )
    if as_json:
        return write(found.raw)
    tell(f"{found.id}: {found.state}" + ("" if happened else f"; outhaul replay {found.id} does it again"))
    return DONE


@click.command()
@click.argument("command_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters that the options below leave.")
@which
@click.option(
    "--max",
    "most",
    type=click.IntRange(1, MOST),
    default=100,
    show_default=True,
    metavar="N",
    help="At most so many, with --all.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1000, min_open=True),
    default=10.0,
    show_default=True,
    metavar="R",
    help="So many a second, with --all.",
)
@click.option("--yes", is_flag=True, help="Do not ask, with --all or --sign-with.")
@click.option(
    "--ttl",
    type=Duration(),
    metavar="TIME",
    help="For IDs: not to be started later than this; as long as before if it is left out.",
)
@sign_with
@signer_name
@valid
@click.option(
    "--params",
    metavar="JSON|@FILE|-",
    help="With --sign-with: the parameters that are signed; the broker is not asked what you sign.",
)
@click.option(
    "--seal-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --sign-with, in place of --params: what `outhaul call --seal-key FILE` kept.",
)
@as_json
@connected
def replay(
    client: Outhaul,
    /,
    command_ids: tuple[str, ...],
    everything: bool,
    most: int,
    rate: float,
    yes: bool,
    ttl: float | None,
    sign_with: Path | None,
    signer_name: str | None,
    valid_s: float | None,
    params: str | None,
    key_file: Path | None,
    as_json: bool,
    **wanted: Any,
) -> int:
    """Do commands again that ended without success: those named, or with --all what a filter finds.

    What is in doubt is resolved first. A command is replayed once: asked again, the same replay is told.
    What was signed is signed again: one ID, with --sign-with and --params.
    """
    if everything == bool(command_ids):
        raise WordsError("wants the IDs of commands, or --all with the options that say which")
    if command_ids:
        given = [name for name, value in wanted.items() if value is not None]
        if given:
            raise WordsError(f"--{given[0].replace('_', '-')} goes with --all, not with IDs")
        if sign_with is not None:
            signing = Signing(sign_with, signer_name, valid_s)
            return _replay_signed(client, command_ids, signing, params, key_file, ttl, yes=yes, as_json=as_json)
        if params is not None or key_file is not None:
            raise WordsError("--params and --seal-key go with --sign-with: a replay has the parameters of before")
        return _replay_some(client, command_ids, ttl, as_json)
    if ttl is not None:
        raise WordsError("--ttl goes with IDs; with --all each has as long as it had before")
    if sign_with is not None:
        raise WordsError("--sign-with goes with one ID: each is signed by itself")
    return _replay_many(client, _filter(wanted), most, rate, yes, as_json)


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # as a container's user without a name
        return ""


def _replay_some(client: Outhaul, command_ids: Sequence[str], ttl_s: float | None, as_json: bool) -> int:
    done, code = [], DONE
    for command_id in command_ids:
        try:
            command = client.replay(command_id, ttl_s=ttl_s)
        except ProblemError as exc:
            if len(command_ids) == 1:
                raise
            # The others are not less wanted for it.
            tell(f"{command_id}: {exc}")
            code = FAILED
            continue
        done.append(command)
        if not as_json:
            tell(f"{command_id}: replayed as {command.id}")
    if as_json:
        write_items(command.raw for command in done)
    return code


def _replay_signed(
    client: Outhaul,
    command_ids: Sequence[str],
    signing: Signing,
    params: str | None,
    key_file: Path | None,
    ttl_s: float | None,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    if len(command_ids) != 1 or (params is None) == (key_file is None):
        raise WordsError(
            "--sign-with wants one ID, and what is signed: --params as they were, or --seal-key FILE of a sealed call"
        )
    # Deferred: see cli.py.
    from cloud_broker.client.sealing import SealedCall
    from cloud_broker.client.signing import work_of

    original = client.command(command_ids[0])
    agent = None if original.group is not None else original.agent
    sealed = None if key_file is None else SealedCall.kept(key_file)
    given = {} if params is None else arguments.object_of(params, "--params")
    work = work_of(client, agent, original.operation, given, group=original.group, sealed=sealed)
    tell_tenant(work)
    confirm(f"Sign {work.operation} (version {work.version}) on {agent or original.group} with these parameters?", yes)
    command = client.replay(original.id, ttl_s=ttl_s, signer=signing.signer(), work=work, valid_s=signing.valid_s)
    if as_json:
        return write_items([command.raw])
    tell(f"{original.id}: replayed as {command.id}")
    return DONE


def _replay_many(client: Outhaul, wanted: Filter, most: int, rate: float, yes: bool, as_json: bool) -> int:
    plan = client.count_dead_letters(most=MOST, **wanted)
    if plan.total == 0:
        tell("no dead letters")
        return write_items([]) if as_json else DONE
    count = min(plan.total, most)
    more = " or more" if plan.total == MOST else ""
    doubt = f", {plan.in_doubt:,} in doubt, which are left out" if plan.in_doubt else ""
    tell(f"{plan.total:,}{more} dead {'letter' if plan.total == 1 else 'letters'}{doubt}")
    tell(f"{count:,} of them, oldest first, {rate:g} a second: {_took(count, rate)}")
    if not yes:
        if not sys.stdin.isatty():
            raise WordsError("nobody can be asked here: --yes goes on without")
        click.confirm("Go on?", abort=True, err=True)
    run = client.replay_all(most=most, rate=rate, **wanted)
    progress = Progress()
    try:
        run = _watched(client, run, progress)
    except KeyboardInterrupt:
        progress.stop()
        tell(f"the broker goes on with it: outhaul dead-letters replays {run.id} shows how far it is,")
        tell(f"outhaul dead-letters cancel {run.id} stops it")
        return FAILED
    finally:
        progress.stop()
    return _show_run(run, as_json) or (DONE if run.state == "done" else FAILED)


def _watched(client: Outhaul, run: ReplayRun, progress: Progress) -> ReplayRun:
    answered = time.monotonic()
    while run.state == "running":
        progress.run(run)
        time.sleep(LOOK_S)
        try:
            run = client.replay_run(run.id)
            answered = time.monotonic()
        except NotReachable:
            # A broker that is started anew goes on with it, and so do we.
            if time.monotonic() - answered > PATIENCE_S:
                raise
    return run


def _show_run(run: ReplayRun, as_json: bool) -> int:
    if as_json:
        return write(run.raw)
    shown = tables()
    shown.pairs((name, value) for name, value in _facts(run) if value is not None)
    if run.skipped:
        shown.facts(["left out", "why"], [(skipped.id, skipped.why) for skipped in run.skipped])
    return DONE


def _facts(run: ReplayRun) -> list[tuple[str, Any]]:
    return [
        ("id", run.id),
        ("state", run.state),
        ("dead letters", run.total),
        ("replayed", run.replayed),
        ("left out", run.skipped_count),
        ("begun", local(run.created_at)),
        ("ended", local(run.finished_at)),
    ]


def _took(count: int, rate: float) -> str:
    seconds_ = math.ceil(count / rate)
    return f"about {seconds_} s" if seconds_ < 120 else f"about {math.ceil(seconds_ / 60):,} min"


def _filter(wanted: dict[str, Any]) -> Filter:
    found: Filter = {
        "state": wanted["state"],
        "operation": wanted["operation"],
        "agent": wanted["agent"],
        "correlation_id": wanted["correlation_id"],
        "since": moment("--since", wanted["since"]) if wanted["since"] else None,
        "before": moment("--before", wanted["before"]) if wanted["before"] else None,
        "code": wanted["code"],
    }
    return found
