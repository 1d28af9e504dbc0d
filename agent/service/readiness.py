"""
What a service does before it is an agent: it waits for a file without mistakes, and for a certificate.

It ends for neither. A service that ends is started again by its manager, which fills the system's log with the same
sentence; and a machine may well be installed long before somebody has a token for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent import config_file, durable_file, logs
from agent.config_file import Loaded
from agent.errors import AgentError, ConfigError, EnrolmentError, LinkError, TokenRefused
from agent.identity.own_identity import find
from agent.link.backoff import Backoff
from agent.secrets import open_store

TOKEN: Final = "token"  # noqa: S105 - the name of a file in the agent's folder: there until it is used
LOOK_S: Final = 5.0  # seconds between two looks at whether somebody did something

log = logging.getLogger(__name__)


def leave_token(state_dir: Path, text: str) -> Path:
    """
    Leave a token for the service, which enrols with it when it next looks, and deletes it.

    Returns:
        The file.

    Raises:
        OSError: it can't be written there.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = state_dir / TOKEN
    durable_file.write(file, text.encode(), 0o600)
    return file


async def wait_until_ready(config: Path, stop: asyncio.Event, tell: Callable[[str], None]) -> Loaded | None:
    """
    Wait until the operator's file can be read and the agent has a certificate; enrol where a token was left.

    Args:
        stop: ends the wait.
        tell: called with what is waited for, once for each reason.

    Returns:
        The file; ``None`` if it was stopped before.
    """
    told, tries = "", Backoff()
    while not stop.is_set():
        wait_s = LOOK_S
        try:
            loaded = await asyncio.to_thread(config_file.load, config)
            logs.set_up(loaded.settings.log, loaded.base_dir)
            if await asyncio.to_thread(find, loaded) is not None:
                return loaded
            await _enrol(loaded)
            continue
        except LinkError as exc:
            wait_s, why = tries.next_delay(), f"The broker was not reached yet, to enrol: {exc}"
        except (ConfigError, EnrolmentError) as exc:
            why = str(exc)
        except AgentError as exc:
            why = f"This agent can't enrol: {exc}"
        if why != told:
            told = why
            log.warning("waiting: %s", why, extra={"event": "service_waits"})
            tell(why)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait_s)
    return None


async def _enrol(loaded: Loaded) -> None:
    # Deferred: it needs what an agent that is enrolled seldom does.
    from agent.identity.enrolment import enroll

    state_dir = loaded.base_dir / loaded.settings.state_dir
    file = state_dir / TOKEN
    try:
        text = await asyncio.to_thread(file.read_text, "utf-8-sig", "replace")
    except FileNotFoundError:
        raise EnrolmentError(
            f"{state_dir}: this agent has no certificate yet; run: outhaul-agent enroll --token TOKEN. It goes on by "
            "itself then"
        ) from None
    except OSError as exc:
        raise EnrolmentError(f"{file}: can't be read: {exc.strerror}; it must be the agent's own") from exc
    try:
        secrets = open_store(loaded.settings, loaded.base_dir)
        identity = await enroll(loaded.settings, text, secrets, state_dir, base_dir=loaded.base_dir)
    except TokenRefused:
        await asyncio.to_thread(file.unlink, missing_ok=True)  # it is good for nothing any more
        raise
    await asyncio.to_thread(file.unlink, missing_ok=True)
    log.info(
        "enrolled with the token that was left",
        extra={"event": "enrolled", "tenant": identity.tenant, "agent": identity.agent},
    )
