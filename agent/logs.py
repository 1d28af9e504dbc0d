"""What the agent tells, on standard error or in a file: text for people, or a JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.discretion import hushed
from agent.errors import ConfigError
from agent.settings import Log
from protocol.plain_text import plain

# What every log record has; whatever else is on one was given as `extra` and is a fact to show.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


class TextFormatter(logging.Formatter):
    """``2026-11-21 19:20:00 INFO    agent connected  event=agent_connected agent=plant-1``"""

    def __init__(self) -> None:
        super().__init__()
        self._second, self._time = 0, ""

    def format(self, record: logging.LogRecord) -> str:
        time = self._time_of(int(record.created))
        told = "".join(f" {name}={value}" for name, value in facts(record).items() if name != "event")
        # Correlation ids and names come from the cloud: nobody there may write lines of ours.
        text = plain(f"{time} {record.levelname:<7} {record.getMessage()}{' ' if told else ''}{told}")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return hushed(text)

    def _time_of(self, second: int) -> str:
        # Many lines have the same, and to write it takes longer than all the rest.
        if second != self._second:
            self._time = datetime.fromtimestamp(second, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
            self._second = second
        return self._time


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``event``, ``message`` and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return hushed(json.dumps(line, default=str, ensure_ascii=False))


def set_up(settings: Log, base_dir: Path | None = None) -> None:
    """
    Send all logs to where the operator wants them.

    Args:
        base_dir: of the operator's file, for who writes into ``settings.file``; ``None``: to standard error.

    Raises:
        ConfigError: the file can't be written.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.file is not None and base_dir is not None:
        from agent.log_file import BoundedFile

        path = base_dir / settings.file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = BoundedFile(path, settings.file_bytes, settings.files)
        except OSError as exc:
            raise ConfigError(
                f"log.file: {path} can't be written: {exc.strerror}; give the agent's account the right to, or name "
                "another one"
            ) from exc
    # Nobody is shown from where, or by which thread: to find that out costs more than a line itself.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, logging.FileHandler):
            former.close()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # Libraries have their say from warnings on: their details may hold what was sent.
    for name in ("websockets", "keyring", "asyncio", "python_socks"):
        logging.getLogger(name).setLevel(logging.WARNING)
