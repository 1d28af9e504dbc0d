"""``outhaul commands``, ``agents`` and ``operations``: what there is, for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud_broker.client import arguments
from cloud_broker.client.call import Format, Wishes, check_arrow, ended, follow, in_words, tell, tell_end
from cloud_broker.client.cli_files import check_new, content_file, picked_file, write_content
from cloud_broker.client.connect import DONE, as_json, connected, max_rows, output_format, set_index
from cloud_broker.client.errors import WordsError
from cloud_broker.client.output import local, moment, tables, write, write_items
from cloud_broker.client.progress import Progress
from cloud_broker.client.records import Agent, Command, LocalSystem, Operation, TimelineStep
from protocol.states import CommandState

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.unsealed import Unsealed


class CommandsGroup(click.Group):
    """``outhaul commands ID`` is ``outhaul commands show ID``, and without a word it is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word in that was left out."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["show" if any(not word.startswith("-") for word in args[:1]) else "list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=CommandsGroup)
def commands() -> None:
    """Commands that were submitted; `outhaul commands ID` shows one."""


@commands.command("list")
@click.option("--state", type=click.Choice([state.value for state in CommandState]), help="Only in this state.")
@click.option("--operation", metavar="NAME", help="Only of this operation.")
@click.option("--agent", metavar="NAME", help="Only of this agent.")
@click.option("--correlation-id", metavar="C", help="Only with this one.")
@click.option("--since", metavar="TIME", help="Only later ones: 1h, 2d, 2026-01-31 or 2026-01-31T14:00:00+01:00.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="At most so many."
)
@as_json
@connected
def list_commands(
    client: Outhaul,
    state: str | None,
    operation: str | None,
    agent: str | None,
    correlation_id: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """List commands, newest first."""
    later = moment("--since", since) if since is not None else None
    found = client.commands(state=state, operation=operation, agent=agent, correlation_id=correlation_id, since=later)
    shown = list(islice(found, limit))
    if as_json:
        return write_items(command.raw for command in shown)
    if shown:
        tables().facts(
            ["id", "state", "agent", "operation", "created", "seconds", "correlation id"],
            [
                (c.id, c.state, c.agent or c.group, c.operation, local(c.created_at), _took(c), c.correlation_id)
                for c in shown
            ],
        )
    else:
        tell("no commands")
    if next(found, None) is not None:
        tell(f"there are more than {limit}: --limit shows more")
    return DONE


@commands.command()
@click.argument("command_id", metavar="ID")
@click.option("--timeline", "with_timeline", is_flag=True, help="Also every step of its life.")
@as_json
@connected
def show(client: Outhaul, command_id: str, with_timeline: bool, as_json: bool) -> int:
    """Show one command."""
    command = client.command(command_id)
    if not with_timeline:
        return _write_command(command, as_json)
    steps = client.timeline(command_id)
    if as_json:
        told = b",\n".join(step.raw.strip() for step in steps)
        return write(b'{"command": ' + command.raw.strip() + b', "timeline": [' + told + b"]}")
    _write_command(command, as_json)
    click.echo()
    tables().facts(
        ["time", "step", "attempt", "agent", "outcome", "what"],
        [(local(s.at), s.step.replace("_", " "), s.attempt, s.agent, s.outcome, _what(s)) for s in steps],
    )
    return DONE


@commands.command()
@click.argument("command_id", metavar="ID")
@as_json
@connected
def cancel(client: Outhaul, command_id: str, as_json: bool) -> int:
    """Ask that a command be stopped; one that runs may still end otherwise."""
    found = client.cancel(command_id)
    if as_json:
        return write(found.raw)
    tell(
        f"{found.id}: {found.state.replace('_', ' ')}"
        if found.final
        else f"{found.id}: asked to cancel, {in_words(found)}"
    )
    return DONE


@commands.command()
@click.argument("command_id", metavar="ID")
@output_format
@set_index
@max_rows
@click.option(
    "--seal-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Reads a sealed result; what `outhaul call --seal-key FILE` kept.",
)
@content_file
@picked_file
@connected
def rows(
    client: Outhaul,
    command_id: str,
    output_format: Format,
    set_index: int | None,
    max_rows: int,
    key_file: Path | None,
    content_file: Path | None,
    picked_file: str | None,
) -> int:
    """Print the result of a command, or write its file, waiting for its end."""
    check_new(content_file, picked_file)
    progress = Progress()
    try:
        wishes = Wishes(output_format, None, set_index, max_rows)
        check_arrow(wishes, sealed=key_file is not None)
        reader: Outhaul | Unsealed = client
        if key_file is not None:
            # Deferred: see cli.py.
            from cloud_broker.client.sealing import SealedCall

            reader = client.unsealed(SealedCall.kept(key_file))
        command = reader.command(command_id)
        if content_file is not None:
            return write_content(reader, ended(reader, command, None, progress), content_file, picked_file, progress)
        return tell_end(follow(reader, command, wishes, progress, sys.stdout.buffer), progress.seconds)
    finally:
        progress.stop()


def _write_command(command: Command, as_json: bool) -> int:
    if as_json:
        return write(command.raw)
    error = command.error
    facts: list[tuple[str, Any]] = [
        ("id", command.id),
        ("state", command.state.replace("_", " ") if command.final else f"{command.state}: {in_words(command)}"),
        ("operation", command.operation),
        ("agent", command.agent),
        ("group", command.group),
        ("created", local(command.created_at)),
        ("started", local(command.started_at)),
        ("finished", local(command.finished_at)),
        ("next try", local(command.not_before)),
        ("expires", None if command.final else local(command.expires_at)),
        ("correlation id", command.correlation_id),
        ("idempotency key", command.idempotency_key),
        ("error", f"{error.code}: {error.message}" if error is not None else None),
        ("sealed to", command.seal_to),
        ("signed", "by the caller" if command.signed else None),
        ("proof", f"outhaul commands verify {command.id}" if command.proof else None),
        ("source code", error.source_code if error is not None else None),
        ("replay of", command.replay_of),
        ("replayed by", command.replayed_by),
        ("resolved", _finding(command)),
        *(("warning", warning) for warning in command.warnings),
        *((f"row set {n}", f"{found.rows:,} rows") for n, found in enumerate(command.row_sets)),
    ]
    shown = tables()
    shown.pairs((name, value) for name, value in facts if value)
    if command.outputs:
        shown.output(bytes(command.raw_outputs))
    return DONE


# --- agents and operations ----------------------------------------------------------------------


@click.command(options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="[[drain|undrain] NAME]")
@as_json
@connected
def agents(client: Outhaul, words: tuple[str, ...], as_json: bool) -> int:
    """
    List the agents, or show the one called NAME.

    `drain NAME` gives that agent nothing new, and lets what it has come to its end, so that its machine can be
    stopped while other agents of its group go on; `undrain NAME` gives it commands again.
    """
    name = words[-1] if words else None
    if len(words) > 2 or (len(words) == 2 and words[0] not in ("drain", "undrain")):
        raise WordsError(f"outhaul agents: wants NAME, drain NAME or undrain NAME, found {' '.join(words)!r}")
    if name is None:
        found = client.agents()
    elif len(words) == 2:
        found = [client.drain(name, drained=words[0] == "drain")]
    else:
        found = [client.agent(name)]
    if as_json:
        return write_items(agent.raw for agent in found) if name is None else write(found[0].raw)
    if name is None and not found:
        tell("no agents")
    elif name is None:
        tables().facts(
            ["name", "state", "group", "version", "last seen", "problems"],
            [(a.name, a.state, a.group, _release(a), local(a.last_seen_at), _problems(a)) for a in found],
        )
    else:
        tables().pairs(_agent_facts(found[0]))
    return DONE


def _release(agent: Agent) -> str | None:
    return f"{agent.version} (outdated)" if agent.outdated else agent.version


def _problems(agent: Agent) -> str:
    """Return what keeps an agent from its work, in one line."""
    drained = [f"drained since {local(agent.drained_at)}"] if agent.drained_at is not None else []
    differs = [f"differs from its group in {', '.join(agent.differs)}"] if agent.differs else []
    not_open = [f"{name} {_how(system)}" for name, system in _not_open(agent)]
    return "; ".join([*drained, *agent.problems, *not_open, *differs])


def _not_open(agent: Agent) -> list[tuple[str, LocalSystem]]:
    return [(name, system) for name, system in agent.connections.items() if system.state != "open"]


def _how(system: LocalSystem) -> str:
    told = {
        "paused": "is paused at the agent's machine",
        "shut": "is outside of its hours",
        "breaker": "failed and is left alone",
    }.get(system.state, system.state)
    if system.reason:
        told = f"{told} ({system.reason})"
    return f"{told} until {local(system.until)}" if system.until is not None else told


def _agent_facts(agent: Agent) -> Iterable[tuple[str, Any]]:
    document = json.loads(agent.raw)
    told = {"problems", "connections"}
    facts = [(key.replace("_", " "), value) for key, value in document.items() if key not in told]
    return [
        *((key, value) for key, value in facts if value not in (None, "", "links", [])),
        *(("problem", problem) for problem in agent.problems),
        *((name, _how(system)) for name, system in _not_open(agent)),
    ]


@click.command()
@click.argument("agent")
@click.argument("operation", required=False)
@as_json
@connected
def operations(client: Outhaul, agent: str, operation: str | None, as_json: bool) -> int:
    """List what may be run on AGENT, or the parameters of one OPERATION."""
    found = client.operations(agent)
    if operation is None:
        if as_json:
            return write_items(entry.raw for entry in found)
        tables().facts(
            ["name", "effect", "parameters", "description"],
            [(o.name, o.effect, " ".join(_shape(o)), o.description) for o in found],
        )
        return DONE
    wanted = next((entry for entry in found if entry.name == operation), None)
    if wanted is None:
        near = arguments.did_you_mean(operation, [entry.name for entry in found])
        raise WordsError(f"{agent} has no operation {operation!r}.{near}")
    if as_json:
        return write(wanted.raw)
    shown = tables()
    shown.pairs(
        (name, value)
        for name, value in (
            ("operation", wanted.name),
            ("description", wanted.description),
            ("effect", wanted.effect),
            ("connection", wanted.connection),
            ("version", wanted.version),
            ("signed by", _signers(wanted)),
        )
        if value
    )
    entries = list(arguments.described(wanted.params))
    if entries:
        shown.facts(["parameter", "type", "required", "default", "description"], entries)
    else:
        tell("no parameters" if wanted.params.get("additionalProperties") is False else "takes any parameters")
    return DONE


def _signers(operation: Operation) -> str | None:
    if operation.allow:
        return ", ".join(operation.allow)
    return "a caller that the operator trusts" if operation.signature_required else None


def _shape(operation: Operation) -> Iterable[str]:
    required = operation.params.get("required", ())
    return (name if name in required else f"[{name}]" for name in operation.params.get("properties", {}))


def _took(command: Command) -> str | None:
    if command.started_at is None or command.finished_at is None:
        return None
    return f"{(command.finished_at - command.started_at).total_seconds():.1f}"


def _finding(command: Command) -> str | None:
    found = command.resolution
    if found is None:
        return None
    note = f": {found.note}" if found.note else ""
    return f"{found.found.replace('_', ' ')}, by {found.who or f'the key {found.by}'}{note}"


def _what(step: TimelineStep) -> str | None:
    return f"{step.error.code}: {step.error.message}" if step.error is not None else step.detail
