"""Log lines of the agent: a line stays a line, whatever the cloud put into it."""

from __future__ import annotations

import json
import logging

from agent.logs import JsonFormatter, TextFormatter


def record(message: str, **facts: object) -> logging.LogRecord:
    """Return a record as a logger would make it."""
    made = logging.makeLogRecord({"name": "agent.dispatcher", "levelname": "INFO", "created": 0.0, "msg": message})
    vars(made).update(facts)
    return made


def test_a_caller_forges_no_line_and_moves_no_cursor() -> None:
    line = TextFormatter().format(record("command ended", correlation_id="a\n2026 ERROR all is lost\r\x1b[2J\u2028ü"))

    assert line.endswith("command ended  correlation_id=a\\n2026 ERROR all is lost\\r\\x1b[2J\\u2028ü")


def test_what_went_wrong_inside_is_still_told_over_many_lines() -> None:
    made = record("fault")
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        made.exc_info = (type(exc), exc, exc.__traceback__)

    assert TextFormatter().format(made).count("\n") > 2


def test_json_is_one_object_with_all_facts() -> None:
    line = JsonFormatter().format(record("command\nended", correlation_id="a\nb"))

    assert "\n" not in line
    assert json.loads(line)["correlation_id"] == "a\nb"
