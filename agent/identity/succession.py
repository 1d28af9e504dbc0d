"""
One identity after another: the new one is written whole beside the old one, put in force in one step, and the old one
is kept until the broker took the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import durable_file
from agent.identity.authorities import pem_of
from agent.identity.held import Identity, current_serial, identity_folder, of_serial, other_serial
from agent.identity.lineage import Lineage
from agent.journal.lock import lock_soon

if TYPE_CHECKING:
    from agent.identity.certificates import Issued  # what it needs is large, and a running agent seldom wants it

_SERIAL: Final = re.compile(r"[0-9a-f]{40}")
REQUESTS: Final = ("pending", "renewal")  # folders of requests that have not ended
LOCK: Final = "lock"  # in the folder of identities; held by who changes them
WAIT_S: Final = 10.0  # seconds to wait for that; a change takes milliseconds
# What is looked at must be so still when it is changed: the link and the renewal do so side by side.
_ONE_AT_A_TIME: Final = threading.Lock()


class Busy(OSError):
    """Another program changes the identity, and for longer than that takes."""


@contextlib.contextmanager
def _changing(state_dir: Path) -> Iterator[None]:
    """
    Change identities as the only one: an agent that runs renews, while somebody enrols with another process.

    Raises:
        OSError: they can't be changed now.
    """
    path = identity_folder(state_dir) / LOCK
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _ONE_AT_A_TIME:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not lock_soon(descriptor, WAIT_S):
                raise Busy(errno.EAGAIN, "another program changes this agent's identity", str(path))
            yield
        finally:
            os.close(descriptor)


def keep_authorities(state_dir: Path, identity: Identity, authorities: Sequence[bytes]) -> None:
    """
    Trust these from now on, with this certificate and the one that may take its place.

    Raises:
        OSError: they can't be written.
    """
    data = pem_of(authorities)
    with _changing(state_dir):
        serials = {identity.serial, other_serial(state_dir) or identity.serial}
        for serial in serials:
            durable_file.write(identity_folder(state_dir) / serial / "ca.crt", data, 0o600)


def write_beside(
    state_dir: Path, issued: Issued, *, key_pem: bytes, authorities: Sequence[bytes], url: str, obtained_at: float
) -> Identity:
    """
    Write an identity whole beside the others; none of them is touched.

    Args:
        key_pem: of the certificate, encrypted.
        authorities: to trust with it, DER.
        url: of the broker.
        obtained_at: now, seconds since 1970.

    Raises:
        OSError: it can't be written.
    """
    with _changing(state_dir):
        return _write(state_dir, issued, key_pem, authorities, url, obtained_at)


def replace_all(
    state_dir: Path, issued: Issued, *, key_pem: bytes, authorities: Sequence[bytes], url: str, obtained_at: float
) -> None:
    """
    Write an identity as ``write_beside`` does, put it in force, and clear the others away.

    Raises:
        OSError: it can't be written.
    """
    with _changing(state_dir):
        _write(state_dir, issued, key_pem, authorities, url, obtained_at)
        before = current_serial(state_dir)
        put_in_force(state_dir, issued.serial)
        Lineage(state_dir).reset()
        # The one before stays, as a running agent may be reading it.
        clear(identity_folder(state_dir), keep={issued.serial, before})


def _write(
    state_dir: Path, issued: Issued, key_pem: bytes, authorities: Sequence[bytes], url: str, obtained_at: float
) -> Identity:
    folder = identity_folder(state_dir) / issued.serial
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = {
        "tenant": issued.tenant,
        "agent": issued.agent,
        "url": url,
        "obtained_at": obtained_at,
        "not_after": issued.not_after,
    }
    durable_file.write(folder / "agent.key", key_pem, 0o600)
    durable_file.write(folder / "agent.crt", issued.pem, 0o600)
    durable_file.write(folder / "ca.crt", pem_of(authorities), 0o600)
    durable_file.write(folder / "identity.json", json.dumps(facts, indent=2).encode(), 0o600)
    return of_serial(state_dir, issued.serial)


def put_in_force(state_dir: Path, serial: str, other: str | None = None) -> None:
    """
    Make this identity the one in force, in one step.

    Args:
        other: of the identity that is dialled with when the broker refuses this one.

    Raises:
        OSError: it can't be written, and what was in force is so still.
    """
    names = serial if other is None else f"{serial}\n{other}"
    durable_file.write(identity_folder(state_dir) / "current", names.encode(), 0o600)


def switch(state_dir: Path, before: str, after: str) -> bool:
    """
    Put another identity in force; the one before stays until ``settle``.

    Returns:
        False if the one in force is not ``before`` any more, or the new one was cleared away: somebody enrolled
        meanwhile, and that stands.

    Raises:
        OSError: it can't be written.
    """
    with _changing(state_dir):
        whole = (identity_folder(state_dir) / after / "identity.json").exists()
        if current_serial(state_dir) != before or not whole:
            return False
        put_in_force(state_dir, after, before)
        return True


def go_back(state_dir: Path, refused: str) -> str | None:
    """
    Let the other identity change places with this one, which the broker refused.

    Whichever of the two the broker takes is the one that stays, so no refusal, not even a wrong one, locks us out.

    Returns:
        The serial of the one in force now; ``None`` if there is no other.

    Raises:
        OSError: it can't be written.
    """
    with _changing(state_dir):
        other = other_serial(state_dir)
        if other is None or current_serial(state_dir) != refused:
            return None
        put_in_force(state_dir, other, refused)
        return other


def settle(state_dir: Path, serial: str) -> None:
    """
    Clear away what this identity has replaced, as the broker took it.

    Raises:
        OSError: it can't be written; it waits for the next time.
    """
    with _changing(state_dir):
        # Without another there is nothing that was replaced; what lies beside may be a renewal under way.
        if current_serial(state_dir) == serial and other_serial(state_dir) is not None:
            put_in_force(state_dir, serial)
            clear(identity_folder(state_dir), keep={serial})


def clear(top: Path, keep: set[str | None]) -> None:
    """Remove identities and requests other than those to keep."""
    # Imported here: it brings libraries of archives along.
    import shutil

    for path in top.iterdir():
        leftover = _SERIAL.fullmatch(path.name) is not None or path.name in REQUESTS
        if leftover and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
