"""Files of ``outhaul``: large ones are sent as blobs before the call, picked ones are written as they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloud_broker.client.arguments import FileContent
from cloud_broker.client.call import tell, tell_end
from cloud_broker.client.connect import DONE
from cloud_broker.client.errors import ResultCut, WordsError
from cloud_broker.client.progress import Progress
from cloud_broker.client.records import Command

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.unsealed import Unsealed

content_file = click.option(
    "-o",
    "--output",
    "content_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the picked file as it was (format raw) to this new file.",
)
picked_file = click.option("--file", "picked_file", metavar="NAME", help="With -o: which of several picked files.")

COMING: Final = ".coming"  # behind the name of a file that is not whole yet


def sent(client: Outhaul, params: Mapping[str, Any], progress: Progress, *, sealed: bool) -> dict[str, Any]:
    """
    Return parameters in which large files are blobs, which were sent.

    Raises:
        WordsError: they are to be sealed, and the broker could read a blob.
    """
    found = dict(params)
    for name, value in params.items():
        if isinstance(value, FileContent):
            if sealed:
                raise WordsError(f"{name}: {value.path} is too large to be sealed; the broker could read what it keeps")
            found[name] = client.send_blob(value.path, progress.sent).content
    return found


def check_new(file: Path | None, name: str | None) -> None:
    """Raise ``WordsError`` for a file that is there already, and for words that do not fit together."""
    if file is None and name is not None:
        raise WordsError("--file goes with -o FILE")
    if file is not None and file.exists():
        raise WordsError(f"-o: {file} is there already; name a new file")


def write_content(client: Outhaul | Unsealed, command: Command, to: Path, name: str | None, progress: Progress) -> int:
    """Write a picked file, if its command succeeded, and tell what came of it; return the exit code."""
    code = tell_end(command, progress.seconds)
    if code == DONE:
        try:
            file, size = _save(client, command, to, name, progress)
        finally:
            progress.stop()
        tell(f"{file}: {size:,} bytes, as the agent's digest says, are in {to}")
    return code


def _save(
    client: Outhaul | Unsealed, command: Command, to: Path, name: str | None, progress: Progress
) -> tuple[str, int]:
    """
    Write a picked file; return its name beside the ERP and its bytes. A whole one is there, or none.

    Raises:
        ResultCut: it is not what the agent said it was.
        WordsError: it can't be written.
    """
    receipt = _receipt(command, name)
    coming = to.with_name(to.name + COMING)
    digest, size = hashlib.sha256(), 0
    try:
        with coming.open("wb") as file, closing(client.content(command.id, receipt["name"])) as pieces:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
                progress.received(size, receipt["bytes"])
            file.flush()
            os.fsync(file.fileno())
        if (size, digest.hexdigest()) != (receipt["bytes"], receipt["sha256"]):
            raise ResultCut(f"{receipt['name']} has {size:,} bytes and another SHA-256 than the agent said")
        os.replace(coming, to)
    except OSError as exc:
        raise WordsError(f"{to} can't be written: {exc.strerror or exc}") from exc
    finally:
        with suppress(OSError):
            coming.unlink(missing_ok=True)
    return receipt["name"], size


def _receipt(command: Command, name: str | None) -> dict[str, Any]:
    """Return what the agent says of one of the picked files."""
    files = command.outputs.get("files")
    found = [one for one in files if isinstance(one, dict)] if isinstance(files, list) else []
    names = [str(one.get("name")) for one in found]
    if name is None and len(found) > 1:
        raise WordsError(f"several files were picked: choose one with --file: {', '.join(names)}")
    for one in found:
        if name in (None, one.get("name")):
            return one
    raise WordsError(f"no file {name!r} was picked, but {', '.join(names) or 'none'}" if name else "no file was picked")
