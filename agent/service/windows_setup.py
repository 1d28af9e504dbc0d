"""
What the MSI has the program do, as the system: ``outhaul-agent service setup install|start|stop|remove``.

Nobody sees what it says: it stands in ``logs\\setup.log`` beside the operator's file, and what failed in the Event
Log too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from agent.errors import AgentError, ServiceError
from agent.operator_file import system_file
from agent.service import windows, windows_events
from agent.service.readiness import leave_token
from agent.service.starter_file import state_dir_of

if sys.platform != "win32":
    raise ImportError("for Windows only")

KEPT_TOKEN: Final = "install-token"  # noqa: S105 - a file's name; installer/windows/token.c has the same


def install(words: Sequence[str]) -> list[str]:
    """Make or mend the service, leave it the token that was given, and start it; where that fails, leave nothing."""
    given = _given(words)
    there = windows.status()
    config = Path(given["configdir"]) / "agent.toml" if given.get("configdir") else Path(there.config or system_file())
    token = _token(given.get("tokenfile", ""))
    fresh = not config.parent.exists()
    with contextlib.ExitStack() as back:
        if fresh:
            back.callback(shutil.rmtree, config.parent, ignore_errors=True)
        done = windows.install(config, given.get("account") or None, _agent(token) if token else "")
        if not there.installed:
            back.callback(windows.uninstall)
        if token:
            back.callback(leave_token(state_dir_of(config), token).unlink, missing_ok=True)
            done.append("the token was left for the service")
        if not there.installed or there.enabled:
            windows.start()
            done.append("started")
        back.pop_all()
    return done


def start(words: Sequence[str]) -> list[str]:
    """Start the service if it starts with the machine."""
    if not windows.status().enabled:
        return ["not started, as it does not start with the machine"]
    windows.start()
    return ["started"]


def stop(words: Sequence[str]) -> list[str]:
    """Stop the service, if there is one."""
    if not windows.status().installed:
        return []
    windows.stop()
    return ["stopped"]


def remove(words: Sequence[str]) -> list[str]:
    """Take the service away; the operator's file and the agent's folders stay."""
    return windows.uninstall()


STEPS: Final[dict[str, Callable[[Sequence[str]], list[str]]]] = {
    "install": install,
    "start": start,
    "stop": stop,
    "remove": remove,
}


def main(words: Sequence[str]) -> NoReturn:
    """Do one step; ``words`` are those after ``service setup``."""
    step = STEPS.get(words[0]) if words else None
    if step is None:
        sys.exit("outhaul-agent: the MSI calls this; use: outhaul-agent service install")
    try:
        done = step(words[1:])
    except AgentError as exc:
        windows_events.report(windows_events.Event.FAILED, f"Setup could not {words[0]} the service: {exc}")
        _note(words[0], [f"failed: {exc}"])
        sys.exit(1)
    except BaseException:
        _note(words[0], [traceback.format_exc()])
        raise
    _note(words[0], done or ["nothing to do"])
    sys.exit(0)


def _given(words: Sequence[str]) -> dict[str, str]:
    """Return the values; each ends with a bar, which no path on Windows has."""
    names = [word.removeprefix("--") for word in words[::2]]
    return dict(zip(names, (word.removesuffix("|").strip() for word in words[1::2]), strict=True))


def _token(named: str) -> str:
    """Return the token that was given, whose file is gone then; "" if there is none."""
    kept = system_file().with_name(KEPT_TOKEN)
    file = kept if kept.exists() else Path(named) if named else None
    if file is None:
        return ""
    try:
        text = file.read_text("utf-8-sig").strip()
        file.unlink()
    except (OSError, UnicodeDecodeError) as exc:
        raise ServiceError(f"TOKENFILE {file}: can't be read and deleted: {exc}") from exc
    return text


def _agent(token: str) -> str:
    from agent.identity.enrolment import parse_token

    return parse_token(token).agent


def _note(step: str, lines: list[str]) -> None:
    """Keep what was done or went wrong; a few lines for each installation."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    with contextlib.suppress(OSError):
        folder = Path(windows.status().config or system_file()).parent / "logs"
        if os.path.isdir(folder):
            with (folder / "setup.log").open("a", encoding="utf-8") as file:
                file.writelines(f"{now} {step}: {line}\n" for line in lines)
