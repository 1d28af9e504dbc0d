"""
Where the broker is and which key to use: the environment, or what ``outhaul login`` kept.

Kept in one file that only its user may read: 0600 in the user's configuration folder; on Windows in the user's
``%APPDATA%``, which Windows itself keeps from other users.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cloud_broker.client.errors import ProfileError

FILE: Final = "profiles.json"
DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Profile:
    """A broker and a key for it; the key is not shown."""

    url: str
    key: str = field(repr=False)
    tenant: str | None = None


def folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the folder of the user's settings for this program; it need not exist."""
    if platform == "win32":
        return Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "outhaul"
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "outhaul"


def find(name: str | None, tenant: str | None, environ: Mapping[str, str] = os.environ) -> Profile:
    """
    Return what to use: ``tenant`` first, then OUTHAUL_URL, OUTHAUL_KEY and OUTHAUL_TENANT, then the kept profile.

    Args:
        name: of the profile; ``None`` for the one called ``default``.

    Raises:
        ProfileError: something is missing.
    """
    url, key = environ.get("OUTHAUL_URL", ""), environ.get("OUTHAUL_KEY", "")
    tenant = tenant or environ.get("OUTHAUL_TENANT") or None
    if url and key and name is None:
        return Profile(url, key, tenant)
    kept = _read(folder(environ) / FILE)
    known = kept.get(name or DEFAULT)
    if known is None:
        if name is not None:
            names = ", ".join(sorted(kept)) or "none"
            raise ProfileError(
                f"there is no profile {name!r} (there is: {names}): run `outhaul login --profile {name}`"
            )
        missing = "OUTHAUL_KEY is not set" if url else "no broker is known"
        raise ProfileError(f"{missing}: run `outhaul login`, or set OUTHAUL_URL and OUTHAUL_KEY")
    if url and not key and url.rstrip("/") != known.url:
        # The kept key belongs to the kept address: no other one gets to see it.
        raise ProfileError(f"OUTHAUL_URL is {url}, the kept key is for {known.url}: set OUTHAUL_KEY too")
    return Profile(url or known.url, key or known.key, tenant or known.tenant)


def keep(name: str | None, profile: Profile, environ: Mapping[str, str] = os.environ) -> Path:
    """
    Keep a profile in place of one of the same name; return the file.

    Raises:
        ProfileError: the file can't be read or written.
    """
    path = folder(environ) / FILE
    kept = _read(path)
    kept[name or DEFAULT] = profile
    document = {
        title: {"url": entry.url, "key": entry.key, "tenant": entry.tenant} for title, entry in sorted(kept.items())
    }
    write_private(path, document)
    return path


def write_private(path: Path, document: Any) -> None:
    """
    Write a JSON document that only this user may read, in place of the one that is there.

    Raises:
        ProfileError: it can't be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp gives 0600 from the first moment; the rename leaves the old file or the new one, never a half.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise ProfileError(f"{path} can't be written: {exc.strerror}") from exc


def _read(path: Path) -> dict[str, Profile]:
    try:
        with path.open(encoding="utf-8") as file:
            if sys.platform != "win32" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ProfileError(f"{path} has keys in it and others may read it: run `chmod 600 {path}`")
            document = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ProfileError(f"{path} can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ProfileError(f"{path} is damaged ({exc}): remove it and run `outhaul login` again") from exc
    try:
        return {name: _profile(entry) for name, entry in document.items()}
    except (AttributeError, KeyError, TypeError) as exc:
        raise ProfileError(f"{path} is damaged: remove it and run `outhaul login` again") from exc


def _profile(entry: dict[str, Any]) -> Profile:
    url, key, tenant = entry["url"], entry["key"], entry.get("tenant")
    if not isinstance(url, str) or not isinstance(key, str) or not isinstance(tenant, str | None):
        raise TypeError
    return Profile(url, key, tenant)
