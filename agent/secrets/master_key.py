"""
The key that locks the vault, and what keeps it.

* ``credential``: a file that systemd hands to the service (``LoadCredentialEncrypted=outhaul-vault.key``),
  encrypted on disk with the machine's TPM or host key. Protects against everyone but root.
* ``dpapi``: Windows, machine scope. Protects a copied folder; any program on this machine that can
  read the file can open it, so the folder's access list is the wall.
* ``file``: a file beside the vault, readable by the agent's account only, mixed with the machine's id. Protects
  a copied folder and a backup, not against who can read both the folder and ``/etc/machine-id``.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent import durable_file
from agent.errors import SecretError

Source = Literal["credential", "dpapi", "file"]

KEY_BYTES: Final = 32
CREDENTIAL: Final = "outhaul-vault.key"
_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_ENTROPY: Final = b"outhaul vault 1"


def source_for_new() -> Source:
    """Return what is to keep the key of a vault made here and now: the strongest there is."""
    if _credential() is not None:
        return "credential"
    return "dpapi" if sys.platform == "win32" else "file"


def master_key(source: Source, folder: Path, *, create: bool) -> bytes:
    """
    Return the 32 bytes that lock the vault in ``folder``.

    Args:
        source: what keeps it.
        create: make it if it is not there; else that is an error.

    Raises:
        SecretError: it is not there, or can't be opened here.
    """
    if source == "credential":
        path = _credential()
        if path is None:
            raise SecretError(
                f"the vault in {folder} is locked with the systemd credential {CREDENTIAL}, which only the service "
                f"has; run this with: systemd-run --pty -p LoadCredentialEncrypted={CREDENTIAL} outhaul-agent secret …"
            )
        return _mixed(_read(path), b"")
    path = folder / "vault.key"
    if not path.exists():
        if not create:
            raise SecretError(f"{path} is missing, without which the vault can't be opened; put it back from a backup")
        fresh = secrets.token_bytes(KEY_BYTES)
        # On Windows this would be the read-only flag, which keeps nobody out and stands in the way of a backup.
        mode = 0o600 if sys.platform == "win32" else 0o400
        durable_file.write(path, _protect(fresh) if source == "dpapi" else fresh, mode)
    kept = _read(path)
    if source == "dpapi":
        return _mixed(_unprotect(kept, path), b"")
    if len(kept) != KEY_BYTES:
        raise SecretError(f"{path}: wants {KEY_BYTES} bytes, found {len(kept)}; put it back from a backup")
    return _mixed(kept, _machine_id())


def _credential() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, CREDENTIAL) if folder else None
    return path if path is not None and path.is_file() else None


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SecretError(f"{path} can't be read: {exc.strerror}; run this as the agent's account") from exc
    if len(data) < KEY_BYTES:
        raise SecretError(f"{path}: wants at least {KEY_BYTES} bytes, found {len(data)}")
    return data


def _mixed(kept: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_ENTROPY).derive(kept)


def _machine_id() -> bytes:
    for path in _MACHINE_IDS:
        try:
            return path.read_bytes().strip()
        except OSError:
            continue
    return b""  # containers often have none; then the key file alone opens the vault


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Blob(ctypes.Structure):
        _fields_ = (("size", wintypes.DWORD), ("data", ctypes.POINTER(ctypes.c_char)))

    _UI_FORBIDDEN: Final = 0x1
    _LOCAL_MACHINE: Final = 0x4

    def _blob(data: bytes) -> _Blob:
        return _Blob(
            len(data), ctypes.cast(ctypes.create_string_buffer(data, len(data)), ctypes.POINTER(ctypes.c_char))
        )

    def _dpapi(name: str, data: bytes, flags: int) -> bytes:
        given, entropy, out = _blob(data), _blob(_ENTROPY), _Blob()
        call = getattr(ctypes.WinDLL("crypt32", use_last_error=True), name)
        if not call(ctypes.byref(given), None, ctypes.byref(entropy), None, None, flags, ctypes.byref(out)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            return ctypes.string_at(out.data, out.size)
        finally:
            ctypes.WinDLL("kernel32").LocalFree(ctypes.cast(out.data, ctypes.c_void_p))

    def _protect(key: bytes) -> bytes:
        return _dpapi("CryptProtectData", key, _UI_FORBIDDEN | _LOCAL_MACHINE)

    def _unprotect(kept: bytes, path: Path) -> bytes:
        try:
            return _dpapi("CryptUnprotectData", kept, _UI_FORBIDDEN)
        except OSError as exc:
            raise SecretError(f"{path} was made on another machine, or is damaged; put it back from a backup") from exc

else:

    def _protect(key: bytes) -> bytes:
        raise SecretError("this vault was made on Windows, and opens only on that machine")

    def _unprotect(kept: bytes, path: Path) -> bytes:
        raise SecretError(f"{path} was made on Windows, and opens only on that machine")
