"""What is not told when something goes wrong: memory in a dump, values of secrets in words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import discretion
from agent.connectors import pipes
from agent.connectors.base import DriverSetup
from agent.connectors.sessions import DriverConnector
from agent.errors import SourceFailed
from agent.logs import JsonFormatter, TextFormatter
from agent.settings import FileConnection, OdbcConnection

VALUE = 'pa"ss}w\\ö rd'


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discretion, "_VALUES", set())


@pytest.mark.parametrize(
    "text",
    [
        f"login failed for {VALUE}",
        f"Pwd={{{VALUE.replace('}', '}}')}}}",
        "http://svc:pa%22ss%7Dw%5C%C3%B6%20rd@proxy",
        json.dumps({"a": VALUE}, ensure_ascii=False),
        repr({"a": VALUE}),
    ],
)
def test_a_value_is_taken_out_however_it_is_written(text: str) -> None:
    assert discretion.hushed(text) == text
    discretion.keep_quiet_about([VALUE])
    hushed = discretion.hushed(text)
    assert "***" in hushed
    assert "ss" not in hushed


def test_of_two_values_the_longer_is_taken_out_first() -> None:
    discretion.keep_quiet_about(["geheim", "geheim-und-mehr", "abc"])
    assert discretion.hushed("geheim-und-mehr geheim abc") == "*** *** abc"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_log_line_holds_a_value_whatever_raised_it(formatter: logging.Formatter) -> None:
    discretion.keep_quiet_about(["canary-word"])
    record = logging.makeLogRecord({"msg": "it said canary-word", "levelname": "INFO", "created": 0.0})
    record.fact = "canary-word"
    try:
        raise ValueError("canary-word")
    except ValueError as exc:
        record.exc_info = (type(exc), exc, exc.__traceback__)
    line = formatter.format(record)
    assert "canary-word" not in line
    assert "ValueError" in line


def test_what_a_driver_reports_holds_no_value() -> None:
    discretion.keep_quiet_about(["canary-word"])
    assert pipes.failure(SourceFailed("can't log in with canary-word")).message == "can't log in with ***"


# --- dumps ----------------------------------------------------------------------------------------

_CRASH = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1] == "discreet":
    from agent import discretion
    discretion.begin()
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    # What is not dumpable belongs to root, whoever runs it: nobody else reads its memory.
    assert os.stat("/proc/self/mem").st_uid == 0
os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_leaves_no_memory_behind(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", _CRASH, "discreet", str(number.value)], cwd=tmp_path)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WTERMSIG(status) == number
    assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_nobody_caught_is_told_without_values() -> None:
    code = (
        "from agent import discretion; discretion.begin(); discretion.keep_quiet_about(['canary-word'])\n"
        "import threading\n"
        "def fail(): raise ValueError('canary-word')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "password = 'canary-' + 'word'\n"
        "raise RuntimeError(password)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "canary-word" not in done.stderr
    assert done.stderr.count("***") == 2


# --- driver processes -----------------------------------------------------------------------------


async def test_a_driver_that_cannot_read_its_settings_shows_none_of_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = OdbcConnection(type="odbc", connection_string="Driver=none", ledger="canary-word")
    setup = DriverSetup("erp", broken, {}, str(tmp_path), str(tmp_path))
    connector = DriverConnector(setup, "agent.connectors.odbc.driver:OdbcDriver")
    (found,) = await connector.check()
    await connector.close()
    assert found.ok is False
    told = capfd.readouterr()
    assert "died" in found.detail
    assert "ledger" in told.err
    assert "canary-word" not in f"{told}{found}"


async def test_a_driver_gets_none_of_our_private_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = ("OUTHAUL_TOKEN", "HTTPS_PROXY", "https_proxy", "CREDENTIALS_DIRECTORY")
    for name in private:
        monkeypatch.setenv(name, "canary-word")
    monkeypatch.setenv("ODBCINI", "kept")
    connection = FileConnection(type="file", root=str(tmp_path))
    connector = DriverConnector(
        DriverSetup("edi", connection, {}, str(tmp_path)), "agent.connectors.file.driver:FileDriver"
    )
    await connector.check()
    (session,) = connector._idle
    seen = [b"ODBCINI=kept", b""]
    with contextlib.suppress(PermissionError):  # its environment can be read by root only, which is as good
        for number, place in enumerate(("environ", "cmdline")):
            seen[number] = await asyncio.to_thread(Path(f"/proc/{session.pid}/{place}").read_bytes)
    await connector.close()
    assert b"ODBCINI=kept" in seen[0].split(b"\0")
    assert b"canary-word" not in b"".join(seen)
