"""``outhaul-agent journal``: what ran here, and what is in doubt."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from agent import RELEASE
from agent.cli_options import config_option, json_option, show
from agent.errors import AgentError, ConfigError
from agent.exit_codes import FAILED
from agent.operator_file import load, user
from protocol.plain_text import plain

# What reads the journal is imported where it is needed: other commands start without it.
if TYPE_CHECKING:
    from agent.config_file import Loaded
    from agent.journal.base import Claim, Entry
    from agent.journal.reading import Reading
    from agent.journal.witnesses import Comparison

STATES: Final = ("started", "ended", "acknowledged", "in_doubt")
SHOWN: Final = 50  # entries of a list, if no limit is given
TRIES: Final = 5  # at reading, while an agent may be about to replace the files


@click.group()
def journal() -> None:
    """What ran here, and what is in doubt."""


@journal.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those that stand there.")
@click.option("--operation", help="Only those of this operation.")
@click.option("--limit", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="The newest so many.")
@config_option
@json_option
def list_entries(state: str | None, operation: str | None, limit: int, config: Path | None, as_json: bool) -> None:
    """List commands, the newest first; those in doubt, or under way, stand out."""
    entries = [
        entry
        for entry in _entries(_read(_state_dir(config)))
        if (state is None or state in _states(entry)) and operation in (None, entry.claim.operation)
    ]
    entries.sort(key=lambda entry: entry.claim.at, reverse=True)
    if as_json:
        show([_facts(entry) for entry in entries[:limit]])
        return
    _table(entries[:limit])
    if len(entries) > limit:
        click.echo(f"{len(entries) - limit} more; --limit shows them", err=True)


@journal.command("show")
@click.argument("command_id", metavar="ID")
@click.option("--open", "unseal", is_flag=True, help="Open sealed parameters, with the agent's own key.")
@config_option
@json_option
def show_entry(command_id: str, unseal: bool, config: Path | None, as_json: bool) -> None:
    """Show all that is known of one command."""
    loaded = load(config)
    entry = _entry(_read(loaded.base_dir / loaded.settings.state_dir), command_id)
    claim = _opened(loaded, entry.claim) if unseal else entry.claim
    facts = {
        **_facts(entry),
        # What is sealed is text, and no JSON.
        "params": (claim.params.decode() or None) if claim.sealed else _json(claim.params),
        "outputs": _json(entry.outputs),
        "rows_bytes": len(entry.rows or b"") + entry.spooled,
    }
    if as_json:
        show(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            click.echo(f"{name:<{width}}  {plain(text)}")


@journal.command()
@click.argument("command_id", metavar="ID")
@click.option("--happened/--not-happened", default=None, help="Whether the ERP has it; one of them must be said.")
@click.option("--note", required=True, help="How it was found out; kept with the command.")
@config_option
@json_option
def resolve(command_id: str, happened: bool | None, note: str, config: Path | None, as_json: bool) -> None:
    """Say what was found out of a command in doubt; the agent takes it up, now or when it starts."""
    from agent.journal import lock, resolutions
    from agent.journal.base import Resolution

    if happened is None:
        raise click.UsageError("say which: --happened or --not-happened")
    state_dir = _state_dir(config)
    entry = _entry(_read(state_dir), command_id)
    if not _states(entry) & {"started", "in_doubt"}:
        outcome = entry.completed.outcome if entry.completed is not None else "unknown"
        raise AgentError(f"{command_id}: ended, {outcome}: there is nothing to resolve")
    resolution = Resolution(happened, user(), note, time.time())
    try:
        resolutions.leave(state_dir, command_id, resolution)
    except OSError as exc:
        raise AgentError(f"{state_dir}: the resolution can't be written: {exc.strerror or exc}") from exc
    if as_json:
        show({"id": command_id, "happened": happened, "by": resolution.by, "note": note, "at": _time(resolution.at)})
    else:
        running = entry.completed is None and lock.held(state_dir)
        more = "; the agent takes it up now, unless the command is still under way" if running else ""
        click.echo(f"{command_id}: kept that it {'happened' if happened else 'did not happen'}{more}", err=True)


@journal.command("put-back")
@click.option("--release", default=RELEASE, show_default=True, help="As this release left it.")
@config_option
@json_option
def put_back(release: str, config: Path | None, as_json: bool) -> None:
    """Put the copy that was kept before an upgrade in the journal's place, to go back to the earlier release.

    The agent must not run. What was under way is in doubt then: the broker sends none of it again.
    """
    from agent.journal import copies
    from agent.journal.file import FOLDER
    from agent.journal.lock import FolderLock

    state_dir = _state_dir(config)
    lock = FolderLock(state_dir)
    try:
        aside = copies.put_back(state_dir / FOLDER, release)
    finally:
        lock.release()
    if as_json:
        show({"release": release, "put_aside": str(aside)})
    else:
        click.echo(f"the journal is as release {release} left it; the one that was there: {aside}", err=True)


@journal.command()
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="An export of the broker's audit trail: it shows whether the journal was cut or written anew.",
)
@config_option
@json_option
def verify(against: Path | None, config: Path | None, as_json: bool) -> None:
    """Check every record and the chain through them; the first that does not fit is named."""
    from agent.journal import witnesses

    loaded = load(config)
    found = _read(loaded.base_dir / loaded.settings.state_dir)
    compared = witnesses.Comparison(0, 0, "")
    if against is not None:
        tenant, agent = _who(loaded)
        try:
            told = witnesses.of_export(against.read_bytes().splitlines(), tenant, agent)
        except ValueError as exc:
            raise ConfigError(f"{against}: {exc}; make it with: outhaul audit --export") from exc
        compared = witnesses.compare(found, told)
    trail = witnesses.contradiction(found.index.anchors)
    ok = not found.damages and not compared.misfit
    if as_json:
        show(
            {"ok": ok, **_checked(found), "against": _compared(compared) if against else None, "broker": trail or None}
        )
    else:
        _tell_checked(found, compared, trail, against)
    if not ok:
        sys.exit(FAILED)


@journal.command()
@config_option
@json_option
def anchors(config: Path | None, as_json: bool) -> None:
    """Print where the broker's audit trail stood, as JSON lines; `outhaul-broker verify-audit --against` takes them."""
    items = [msgspec.structs.asdict(one) for one in _read(_state_dir(config)).index.anchors]
    for item in items:
        item["at"] = _time(item["at"])
    if as_json:
        show({"items": items})
        return
    for item in items:
        click.echo(json.dumps(item))


def _checked(found: Reading) -> dict[str, Any]:
    return {
        "records": found.count,
        "position": found.position,
        "head": found.head.hex(),
        "bytes": found.size,
        "mark": found.mark,
        "torn_bytes": found.torn,
        "damages": [
            {"file": one.file, "offset": one.offset, "what": one.what, "commands": list(one.ids)}
            for one in found.damages
        ],
    }


def _compared(compared: Comparison) -> dict[str, Any]:
    return {"compared": compared.compared, "older": compared.older, "misfit": compared.misfit or None}


def _tell_checked(found: Reading, compared: Comparison, trail: str, against: Path | None) -> None:
    failed = click.style("FAILED", fg="red")
    if found.damages:
        click.echo(f"{failed}  {found.damages[0]}")
        if len(found.damages) > 1:
            click.echo(f"        and {len(found.damages) - 1} more; --json lists them")
        click.echo("        fix: restart the agent: it sets the bad bytes aside and goes on with all the others")
    else:
        torn = f"; {found.torn} bytes at the end were being written" if found.torn else ""
        click.echo(f"{click.style('ok', fg='green')}      {found.count} records, {found.size} bytes{torn}")
        click.echo(f"        position {found.position}, head {found.head.hex()}")
    if compared.misfit:
        click.echo(f"{failed}  {compared.misfit}")
    elif against is not None:
        older = f"; {compared.older} are older than what it still has" if compared.older else ""
        click.echo(f"{click.style('ok', fg='green')}      it is what the broker noted {compared.compared} times{older}")
    if trail:
        click.echo(f"{click.style('look', fg='yellow')}    the broker's audit trail is not what it was: {trail}")


def _who(loaded: Loaded) -> tuple[str, str]:
    """Return tenant and agent; before the enrolment the tenant is not known."""
    from agent.identity import own_identity

    try:
        found = own_identity.find(loaded)
    except AgentError:
        found = None
    return (found.tenant, found.agent) if found is not None else ("", loaded.settings.agent)


def _state_dir(config: Path | None) -> Path:
    loaded = load(config)
    return loaded.base_dir / loaded.settings.state_dir


def _read(state_dir: Path) -> Reading:
    """Read the journal as it is; an agent may be writing it."""
    from agent.journal.disk import Disk
    from agent.journal.file import FOLDER
    from agent.journal.reading import read
    from agent.journal.records import Index

    folder = state_dir / FOLDER
    for attempt in range(TRIES):
        try:
            found = read(Disk(), folder, Index(), whole=True)
        except OSError as exc:
            raise AgentError(
                f"{folder}: can't be read: {exc.strerror or exc}; run this as the agent's account"
            ) from exc
        if not found.damages:
            break
        # An agent that wrote its journal anew meanwhile took away the file that was about to be read.
        time.sleep(0.05 * attempt)
    return found


def _entries(found: Reading) -> Iterable[Entry]:
    yield from found.index.open.values()
    yield from (known for known in found.index.remembered.values() if not isinstance(known, int))


def _entry(found: Reading, command_id: str) -> Entry:
    for entry in _entries(found):
        if entry.claim.id == command_id:
            return entry
    raise AgentError(f"the journal has no command {command_id!r}; outhaul-agent journal list shows those it has")


def _states(entry: Entry) -> set[str]:
    doubtful = entry.completed is not None and entry.completed.outcome == "in_doubt" and entry.resolution is None
    return {entry.state, "in_doubt"} if doubtful else {entry.state}


def _facts(entry: Entry) -> dict[str, Any]:
    claim, completed, resolution = entry.claim, entry.completed, entry.resolution
    facts: dict[str, Any] = {
        "id": claim.id,
        "operation": claim.operation,
        "effect": claim.effect,
        "attempt": claim.epoch,
        "state": entry.state,
        "outcome": completed.outcome if completed is not None else None,
        "started_at": _time(claim.at),
        "ended_at": _time(entry.ended_at) if entry.ended_at else None,
        "correlation_id": claim.correlation_id,
        "signed_by": claim.signer or None,
        "error": None,
        "resolution": None,
    }
    if completed is not None and completed.error_code:
        facts["error"] = {
            "kind": completed.error_kind,
            "code": completed.error_code,
            "message": completed.error_message,
        }
    if resolution is not None:
        facts["resolution"] = {
            "happened": resolution.happened,
            "by": resolution.by,
            "note": resolution.note,
            "at": _time(resolution.at),
        }
    return facts


def _table(entries: list[Entry]) -> None:
    rows = [_cells(entry) for entry in entries]
    heads = ("id", "operation", "effect", "attempt", "state", "outcome", "started", "ended")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row, entry in zip([heads, *rows], [None, *entries], strict=True):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        states = _states(entry) if entry is not None else set()
        colour = "red" if "in_doubt" in states else "yellow" if "started" in states else None
        click.echo(click.style(line, fg=colour, bold=entry is None or None) if colour or entry is None else line)


def _cells(entry: Entry) -> tuple[str, ...]:
    outcome: str = entry.completed.outcome if entry.completed is not None else ""
    if entry.resolution is not None:
        outcome += " (happened)" if entry.resolution.happened else " (did not happen)"
    return (
        plain(entry.claim.id),
        plain(entry.claim.operation),
        entry.claim.effect,
        str(entry.claim.epoch),
        entry.state,
        outcome.strip(),
        _local(entry.claim.at),
        _local(entry.ended_at) if entry.ended_at else "",
    )


def _opened(loaded: Loaded, claim: Claim) -> Claim:
    """Return a claim with its parameters in clear."""
    from agent.identity.keys import open_keys
    from agent.sealing import Seals
    from agent.secrets import open_store

    if not claim.sealed or not claim.params:  # they are kept until the broker has the end
        return claim
    keys = open_keys(loaded.base_dir / loaded.settings.state_dir, open_store(loaded.settings, loaded.base_dir))
    return Seals(lambda: keys.seal, lambda: _who(loaded)).open(claim).claim


def _json(data: bytes | None) -> Any:
    return json.loads(data) if data else None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _local(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
