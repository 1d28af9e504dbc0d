"""Log lines on stderr: text for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from cloud_broker.settings import LogSettings
from protocol.plain_text import plain

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure(settings: LogSettings) -> None:
    """Send all log lines to stderr, as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    hush_libraries()


def hush_libraries() -> None:
    """Let libraries say from warnings on what they have to say."""
    # Their details may hold what was sent, such as a token.
    for name in ("websockets", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_not_expected)


def _not_expected(record: logging.LogRecord) -> bool:
    # rows.py ends a cut result this way on purpose, and has told so; a bug of ours raises.
    return record.msg != "ASGI callable returned without completing response."


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextLines(logging.Formatter):
    """Time, level, sentence, then the facts as ``name=value``; a line stays a line whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = "".join(f" {name}={value}" for name, value in facts(record).items() if name != "event")
        line = plain(f"{time} {record.levelname.lower()} {record.getMessage()}{told}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object: time, level, logger, message, event and the other facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str, ensure_ascii=False)
