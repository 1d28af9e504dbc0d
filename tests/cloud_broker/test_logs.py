"""Log lines: a line stays a line, and every fact is told."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from uvicorn.protocols.http import httptools_impl

from cloud_broker.logs import JsonLines, TextLines, hush_libraries


def record(message: str, **facts: object) -> logging.LogRecord:
    """Return a record as a logger would make it."""
    made = logging.makeLogRecord(
        {"name": "cloud_broker.router", "levelname": "WARNING", "created": 0.0, "msg": message}
    )
    vars(made).update(facts)
    return made


def test_text_is_one_line_whatever_is_in_it() -> None:
    line = TextLines().format(record("rows cut\nERROR all is lost\r", event="rows_cut", command="cmd_1"))

    assert line == "1970-01-01T00:00:00.000+00:00 warning rows cut\\nERROR all is lost\\r command=cmd_1"


def test_a_caller_moves_no_cursor() -> None:
    line = TextLines().format(record("rows cut", correlation_id="\x1b[2J\x9b2J\u2028ü"))

    assert line.endswith("rows cut correlation_id=\\x1b[2J\\x9b2J\\u2028ü")


def test_json_is_one_object_with_all_facts() -> None:
    line = JsonLines().format(record("rows\ncut", event="rows_cut", command="cmd_1"))

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000000+00:00",
        "level": "warning",
        "logger": "cloud_broker.router",
        "message": "rows\ncut",
        "event": "rows_cut",
        "command": "cmd_1",
    }


def test_an_error_brings_its_traceback() -> None:
    try:
        raise KeyError("k")
    except KeyError:
        failed = record("failed", exc_info=sys.exc_info())

    assert "KeyError: 'k'" in TextLines().format(failed)
    assert "KeyError: 'k'" in json.loads(JsonLines().format(failed))["traceback"]


def test_a_result_that_is_cut_on_purpose_is_no_error_of_the_web_server() -> None:
    hush_libraries()

    server = logging.getLogger("uvicorn.error")
    assert not server.filter(record("ASGI callable returned without completing response."))
    assert server.filter(record("Exception in ASGI application"))
    sources = Path(httptools_impl.__file__).read_text("utf-8")
    assert '"ASGI callable returned without completing response."' in sources
