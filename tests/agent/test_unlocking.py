"""What opens secrets for the running agent is another process, which hands them over and ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import EnrolmentError, SecretError
from agent.identity.held import PASSPHRASE
from agent.identity.keys import keys_file, open_keys
from agent.own_program import own_program
from agent.secrets import open_store
from agent.secrets.unlocking import UnlockedSecrets
from agent.settings import OdbcConnection, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    connection = OdbcConnection(type="odbc", connection_string="Pwd={secret:erp}")
    return Settings(agent="plant-1", state_dir=str(tmp_path), connections={"erp": connection})


@pytest.fixture
def unlocked(settings: Settings) -> Iterator[UnlockedSecrets]:
    secrets = UnlockedSecrets(settings, Path())
    yield secrets
    secrets.close()


def test_values_come_as_they_are_kept_and_anew_when_the_vault_changes(
    settings: Settings, unlocked: UnlockedSecrets
) -> None:
    store = open_store(settings)
    store.set("erp", "hüsh")
    assert unlocked.get("erp") == "hüsh"
    assert unlocked.get("other") is None
    store.set("erp", "another")
    assert unlocked.get("erp") == "another"


def test_what_was_read_is_not_asked_for_again(
    settings: Settings, unlocked: UnlockedSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(settings).set("erp", "hush")
    assert unlocked.get("erp") == "hush"
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert unlocked.get("erp") == "hush"
    assert unlocked.get(PASSPHRASE) is None
    with pytest.raises(SecretError, match="can't be started"):
        unlocked.get("not-in-the-file")


def test_keys_are_made_once_and_are_those_that_others_open(
    settings: Settings, unlocked: UnlockedSecrets, tmp_path: Path
) -> None:
    made = unlocked.open_keys()
    assert made == open_keys(tmp_path, open_store(settings))
    assert unlocked.open_keys() == made
    assert made.sign.public_key().public_bytes_raw() != made.seal.public_key().public_bytes_raw()
    assert repr(made.sign_bytes) not in repr(made)


def test_an_error_over_there_is_the_same_error_here(unlocked: UnlockedSecrets, tmp_path: Path) -> None:
    unlocked.open_keys()
    keys_file(tmp_path).write_text("{}")
    with pytest.raises(EnrolmentError, match="damaged"):
        unlocked.open_keys()
    (tmp_path / "vault.key").unlink()
    with pytest.raises(SecretError, match=r"vault\.key is missing"):
        unlocked.open_keys()


@pytest.mark.parametrize("said", ["", "print('x')"])
def test_a_process_that_says_nothing_is_told(
    unlocked: UnlockedSecrets, monkeypatch: pytest.MonkeyPatch, said: str, settings: Settings
) -> None:
    unlocked.close()
    monkeypatch.setattr("agent.secrets.opener.own_program", lambda: [sys.executable, "-c", said])
    with pytest.raises(SecretError, match="ended with code 0 and said nothing"):
        unlocked.get("erp")


def test_a_process_that_is_not_asked_says_nothing_and_ends() -> None:
    done = subprocess.run([*own_program(), "unlock"], input=b"", capture_output=True, timeout=60, check=True)
    assert done.stdout == b""
