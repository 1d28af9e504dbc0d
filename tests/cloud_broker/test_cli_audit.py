"""``outhaul-broker verify-audit``, with the exit codes and documents that scripts rely on."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloud_broker.audit import lines as audit_lines
from cloud_broker.cli import main
from cloud_broker.store.sqlite import SqliteStore


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a broker with the tenant acme and a key."""
    monkeypatch.setenv("SUDO_USER", "alice")
    (tmp_path / "broker.toml").write_text('data_dir = "data"\n', "utf-8")
    for words in (("init",), ("tenant", "create", "acme"), ("key", "create", "--tenant", "acme", "--scope", "*")):
        assert run(tmp_path, *words).exit_code == 0
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--config", str(folder / "broker.toml")])


def export(folder: Path, tenant: str = "acme") -> list[bytes]:
    async def look() -> list[bytes]:
        store = SqliteStore(folder / "data" / "broker.db")
        await store.open()
        try:
            return [audit_lines.encode(record) for record in await store.audit_after(tenant, 0, 1_000)]
        finally:
            await store.close()

    return asyncio.run(look())


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "data" / "broker.db")
    for name in ("audit_is_not_changed", "audit_is_not_removed"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_is_done_at_the_command_line_is_noted_with_who_sat_there(folder: Path) -> None:
    acts = [json.loads(line) for line in [*export(folder, ""), *export(folder)]]
    assert [(act["actor"], act["action"]) for act in acts] == [
        ("operator:alice", "key_created"),
        ("operator:alice", "tenant_created"),
        ("operator:alice", "key_created"),
    ]


def test_chains_that_are_whole_are_named_with_their_heads(folder: Path) -> None:
    done = run(folder, "verify-audit")
    assert done.exit_code == 0
    head = json.loads(export(folder)[-1])["hash"]
    assert re.search(rf"ok\s+acme: 2 records, head {head}", done.output)
    assert "the broker's own: 1 records" in done.output
    found: dict[str, Any] = json.loads(run(folder, "verify-audit", "--json", "--tenant", "acme").output)
    assert found == {"ok": True, "chains": [{"tenant": "acme", "records": 2, "head": head, "misfit": None}]}


def test_the_first_record_that_does_not_fit_is_named_and_the_exit_code_is_1(folder: Path) -> None:
    change(folder, "UPDATE audit SET actor = 'key:ff' WHERE tenant = 'acme' AND number = 2")
    done = run(folder, "verify-audit")
    assert done.exit_code == 1
    assert "acme: record 2: it was changed" in done.output
    assert json.loads(run(folder, "verify-audit", "--json").output)["ok"] is False


def test_a_chain_that_was_cut_shows_against_what_was_kept(folder: Path) -> None:
    kept = folder / "kept.ndjson"
    kept.write_bytes(b"".join(export(folder)))
    anchor = {"tenant": "acme", "number": 2, "hash": json.loads(export(folder)[1])["hash"], "at": "t"}
    anchors = folder / "anchors.ndjson"
    anchors.write_text(json.dumps(anchor) + "\n", "utf-8")
    assert run(folder, "verify-audit", "--against", str(kept), "--against", str(anchors)).exit_code == 0
    change(folder, "DELETE FROM audit WHERE tenant = 'acme' AND number = 2")
    assert run(folder, "verify-audit").exit_code == 0
    for path in (kept, anchors):
        done = run(folder, "verify-audit", "--against", str(path))
        assert (done.exit_code, "record 2: it is missing" in done.output) == (1, True)


def test_an_export_is_checked_without_the_store(folder: Path) -> None:
    lines = export(folder)
    path = folder / "export.ndjson"
    path.write_bytes(b"".join(lines))
    assert run(folder, "verify-audit", "--export", str(path)).exit_code == 0
    path.write_bytes(lines[0] + lines[1].replace(b"key:", b"kex:"))
    done = run(folder, "verify-audit", "--export", str(path))
    assert (done.exit_code, "record 2: it was changed" in done.output) == (1, True)


@pytest.mark.parametrize("option", ["--against", "--export"])
def test_a_file_that_is_something_else_is_told(folder: Path, option: str) -> None:
    done = run(folder, "verify-audit", option, str(folder / "broker.toml"))
    assert done.exit_code == 2
    assert "line 1: wants" in done.output


def test_the_manuals_own_tool_says_the_same(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/verify-what-happened.md").read_text("utf-8")
    script = page.partition("```python\n")[2].partition("```")[0]
    lines = export(folder)
    for text, code in ((lines, 0), ([lines[0], lines[1].replace(b"alice", b"bob")], 1), (lines[1:], 1)):
        done = subprocess.run([sys.executable, "-c", script], input=b"".join(text), capture_output=True)
        assert done.returncode == code, done.stderr
