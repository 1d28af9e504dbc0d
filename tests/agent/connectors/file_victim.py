"""
A process that drops a file and sends itself a signal at a named point: ``python -m … POINT WAY SIGNAL FOLDER ATTEMPT``.

Nothing in the driver knows of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent import errors
from agent.connectors.file import publish
from agent.connectors.file.attempts import Attempt
from agent.connectors.file.drop import Drop

NAME: Final = "a.json"
COMMAND: Final = "cmd_01jd2v6x7m8n9p0q1r2s3t4v5w"
CONTENT: Final = b'{"order": 1}'
POINTS: Final[dict[str, tuple[Any, str, str]]] = {
    "before the part": (Drop, "_write_part", "before"),
    "before the claim": (Drop, "_write_claim", "before"),
    "before the name": (publish, "appear", "before"),
    "within the link": (Path, "unlink", "before"),
    "after the name": (publish, "appear", "after"),
}
TOLD: Final = 3  # exit code: the run ended, with an error that it wrote


def main(point: str, way: publish.Way, name: str, folder: str, attempt: str) -> None:
    owner, method, when = POINTS[point]
    original: Callable[..., Any] = getattr(owner, method)

    def patched(*args: Any, **more: Any) -> Any:
        # Of the unlinks, the one between the two steps of a link: the part's, once the file stands there.
        here = method != "unlink" or (args[0].suffix == ".part" and Path(folder, NAME).exists())
        if when == "before" and here:
            os.kill(os.getpid(), signal.Signals[name])
        found = original(*args, **more)
        if when == "after":
            os.kill(os.getpid(), signal.Signals[name])
        return found

    setattr(owner, method, patched)
    try:
        Drop(Attempt(Path(folder), NAME, COMMAND, int(attempt)), way, once=True, max_bytes=len(CONTENT)).write(
            [CONTENT]
        )
    except errors.CommandError as exc:
        sys.stdout.write(type(exc).__name__)
        sys.exit(TOLD)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type] # the words are ours
