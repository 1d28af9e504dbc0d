"""``make audit``: what the two programs say, as it was seen, and what it means."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from config.dev import audit
from config.dev.audit import Answer

FOUND = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"]}]}
CLEAN = {"name": "click", "version": "8.5.1", "vulns": []}
UNKNOWN = {"name": "h11", "skip_reason": "Dependency not found on PyPI and could not be audited: h11 (0.16.0)"}


@pytest.mark.parametrize(
    ("packages", "answer"),
    [
        ([CLEAN], Answer()),
        ([CLEAN, FOUND], Answer(("jinja2 2.4.1: PYSEC-2014-8, mended in 2.7.2",))),
        ([CLEAN, UNKNOWN], Answer((), "1 of 2 packages are not known to the source of advisories")),
    ],
)
def test_a_package_that_was_skipped_is_not_one_that_is_clean(packages: list[Any], answer: Answer) -> None:
    assert audit.of_pip_audit({"dependencies": packages, "fixes": []}) == answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"auditReportVersion": 2, "vulnerabilities": {}}, Answer()),
        ({"vulnerabilities": {"soap": {"severity": "high"}}}, Answer(("soap: high",))),
        ({"message": "405 Method Not Allowed", "error": {"summary": ""}}, Answer((), "405 Method Not Allowed")),
        ({"error": {"code": "ENOLOCK", "summary": "needs a lock file"}}, Answer((), "needs a lock file")),
    ],
)
def test_an_error_of_npm_is_not_an_answer(said: dict[str, Any], answer: Answer) -> None:
    assert audit.of_npm_audit(said) == answer


@pytest.mark.parametrize(
    ("packages", "code"),
    [([CLEAN], audit.CLEAN), ([CLEAN, FOUND, UNKNOWN], audit.FOUND), ([UNKNOWN], audit.NOT_ASKED)],
)
def test_only_a_full_and_clean_answer_is_exit_code_0(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[Any],
    code: int,
) -> None:
    said = {"pip_audit": {"dependencies": packages}, "npm": {"vulnerabilities": {}}}
    for name, answer in said.items():
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n", "utf-8")
        script.chmod(0o755)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{tmp_path}/pip_audit"\n', "utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert audit.main("pypi") == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(audit.LOCKS) + len(audit.NODE)


def test_a_program_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "FileNotFoundError" in audit.npm_audit(audit.NODE[0]).not_asked
