"""``outhaul-agent status``, ``pause`` and ``resume``: what people at this machine ask of a running agent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli_options import config_option, json_option, show
from agent.errors import AgentError, ConfigError
from agent.exit_codes import FAILED, NOT_REACHABLE
from agent.operator_file import load, user
from protocol.plain_text import plain

# Deferred, as in `agent.cli`: `--help` and `run` start without it.
if TYPE_CHECKING:
    from agent.config_file import Loaded
    from agent.status import Status

OBEYED_S: Final = 3.0  # seconds that a running agent has to obey; it looks twice a second
_LOOK_S: Final = 0.1


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Tell how the agent is: link, certificate, problems, pauses, commands; exit code 3 where none runs."""
    facts = _facts(load(config))
    if as_json:
        show(facts)
    else:
        for line in _lines(facts):
            click.echo(plain(line))
    if not facts["running"]:
        sys.exit(NOT_REACHABLE)


@click.command()
@click.argument("connection", required=False)
@click.option("--reason", default="", help="For the log, for callers, and for who resumes it.")
@click.option("--now", is_flag=True, help="Also stop what runs there, as a cancel would.")
@config_option
@json_option
def pause(connection: str | None, reason: str, now: bool, config: Path | None, as_json: bool) -> None:
    """Let nothing begin on CONNECTION, or on any; it outlives restarts, and only `resume` here undoes it."""
    from agent import pauses

    loaded = load(config)
    name = _known(loaded, connection)
    if len(reason) > pauses.MAX_REASON_CHARS:
        raise click.UsageError(f"--reason wants at most {pauses.MAX_REASON_CHARS} characters")
    state_dir = _state_dir(loaded)
    wanted = pauses.Pause(name, reason, user(), time.time(), now)
    try:
        pauses.pause(state_dir, wanted)
    except OSError as exc:
        raise _not_written(state_dir, exc) from exc
    names = [name] if name else list(loaded.settings.connections)
    obeyed = _obeyed(state_dir, lambda status: all(one in status and status[one].paused for one in names))
    _told("paused", name, obeyed, as_json)


@click.command()
@click.argument("connection", required=False)
@config_option
@json_option
def resume(connection: str | None, config: Path | None, as_json: bool) -> None:
    """Let CONNECTION go on, or all of them."""
    from agent import pauses

    loaded = load(config)
    name, state_dir = connection or pauses.EVERY, _state_dir(loaded)
    said = {one.connection for one in pauses.said(state_dir)}
    if name not in said:
        _known(loaded, connection)
        if pauses.EVERY in said:
            raise AgentError("all connections are paused together; let all of them go on with: outhaul-agent resume")
    try:
        there = pauses.resume(state_dir, name)
    except OSError as exc:
        raise _not_written(state_dir, exc) from exc
    if not there:
        click.echo(f"{name} was not paused" if name else "nothing was paused", err=True)
    names = [name] if name else list(loaded.settings.connections)
    obeyed = _obeyed(state_dir, lambda status: not any(status[one].paused for one in names if one in status))
    _told("resumed", name, obeyed, as_json)


def _known(loaded: Loaded, connection: str | None) -> str:
    from agent.config_checks import nearest

    if connection is not None and connection not in loaded.settings.connections:
        hint = nearest(connection, loaded.settings.connections)
        raise ConfigError(f"{loaded.path}: no connection has the name {connection!r}{hint}")
    return connection or ""


def _state_dir(loaded: Loaded) -> Path:
    return loaded.base_dir / loaded.settings.state_dir


def _not_written(state_dir: Path, exc: OSError) -> AgentError:
    return AgentError(
        f"{state_dir}: can't be written: {exc.strerror or exc}; run this as the agent's account, or as an administrator"
    )


def _obeyed(state_dir: Path, done: Callable[[Any], bool]) -> bool | None:
    """Wait until the agent says that it obeys; ``None`` where none runs."""
    from agent import status
    from agent.journal import lock

    if not lock.held(state_dir):
        return None
    deadline = time.monotonic() + OBEYED_S
    while time.monotonic() < deadline:
        written = status.read(state_dir)
        if written is not None and done(written.connections):
            return True
        time.sleep(_LOOK_S)  # the agent answers by a file, and no system tells alike when one is written
    return False


def _told(word: str, name: str, obeyed: bool | None, as_json: bool) -> None:
    if as_json:
        show({"connection": name or None, word: True, "agent_runs": obeyed is not None, "obeyed": bool(obeyed)})
        return
    what = name or "all connections"
    if obeyed is None:
        click.echo(f"{word} {what}; no agent runs here now, the next one obeys from its start", err=True)
    elif obeyed:
        click.echo(f"{word} {what}; the agent obeys", err=True)
    else:
        click.echo(
            f"{word} {what}, but the agent has not said within {OBEYED_S:g} s that it obeys; see: outhaul-agent status",
            err=True,
        )
        sys.exit(FAILED)


# --- status ---------------------------------------------------------------------------------------


def _facts(loaded: Loaded) -> dict[str, Any]:
    from agent import pauses, status
    from agent.identity.own_identity import find
    from agent.journal import lock
    from agent.upgrade import report

    state_dir = _state_dir(loaded)
    upgrade = report.read(state_dir)
    running = lock.held(state_dir)
    written = status.read(state_dir) if running else None
    identity = find(loaded)
    return {
        "agent": loaded.settings.agent,
        "running": running,
        "answers": written is not None and time.time() - written.at < status.STALE_S,
        **_process(written),
        "certificate": None
        if identity is None
        else {"tenant": identity.tenant, "serial": identity.serial, "not_after": _time(identity.not_after)},
        "upgrade": None if upgrade is None else {"state": upgrade.state, "told": upgrade.text},
        "paused": [
            {
                "connection": one.connection or None,
                "reason": one.reason,
                "by": one.by,
                "at": _time(one.at),
                "stops_what_runs": one.stop,
            }
            for one in pauses.said(state_dir)
        ],
    }


def _process(written: Status | None) -> dict[str, Any]:
    if written is None:
        return {"link": None, "problems": [], "connections": {}, "commands": {"running": 0, "held": 0}}
    connections = written.connections
    return {
        "pid": written.pid,
        "release": written.release,
        "started_at": _time(written.started_at),
        "link": {
            "state": written.link,
            "since": None if written.linked_since is None else _time(written.linked_since),
            "broker": written.broker,
            "error": written.link_error or None,
        },
        "problems": written.problems,
        "connections": {
            name: {"paused": one.paused, "shut": one.shut, "running": one.running, "held": one.held}
            for name, one in connections.items()
        },
        "commands": {
            "running": sum(one.running for one in connections.values()),
            "held": sum(one.held for one in connections.values()),
        },
    }


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"agent {facts['agent']}: {_how(facts)}"
    link = facts["link"]
    if link is not None:
        up = f"linked to {link['broker']} since {link['since']}" if link["since"] else f"not linked: {link['state']}"
        yield f"link: {up}{'; ' + link['error'] if link['error'] else ''}"
    certificate = facts["certificate"]
    yield (
        "certificate: none; outhaul-agent enroll --token TOKEN"
        if certificate is None
        else f"certificate: {certificate['serial']} of tenant {certificate['tenant']}, until {certificate['not_after']}"
    )
    if facts["upgrade"] is not None and facts["upgrade"]["state"] != "done":
        yield facts["upgrade"]["told"]
    for problem in facts["problems"]:
        yield f"problem: {problem}"
    for one in facts["paused"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        yield f"paused: {one['connection'] or 'all connections'}, by {one['by']} at {one['at']}{reason}"
    if facts["running"]:
        yield f"commands: {facts['commands']['running']} running, {facts['commands']['held']} held"
        for name, one in facts["connections"].items():
            state = "paused" if one["paused"] else "outside of its hours" if one["shut"] else "open"
            yield f"connection {name}: {state}, {one['running']} running, {one['held']} held"


def _how(facts: dict[str, Any]) -> str:
    if not facts["running"]:
        return "does not run"
    if not facts["answers"]:
        return "runs, but does not say how it is"
    return f"runs since {facts['started_at']}, process {facts['pid']}, release {facts['release']}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
