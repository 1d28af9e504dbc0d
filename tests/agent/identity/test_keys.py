"""The agent's own keys: made once, locked, and the same until somebody removes them."""

from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path

import pytest

from agent.errors import EnrolmentError, SecretError
from agent.identity.held import PASSPHRASE
from agent.identity.keys import keys_file, open_keys, public_keys
from agent.secrets import SecretStore, open_store
from agent.settings import Settings


@pytest.fixture
def secrets(tmp_path: Path) -> SecretStore:
    return open_store(Settings(agent="plant-1", state_dir=str(tmp_path)))


def test_keys_are_made_once_and_found_again(tmp_path: Path, secrets: SecretStore) -> None:
    first = open_keys(tmp_path, secrets)
    again = open_keys(tmp_path, secrets)
    assert again.public == first.public == public_keys(tmp_path)
    assert again.sign.private_bytes_raw() == first.sign.private_bytes_raw()
    assert again.seal.private_bytes_raw() == first.seal.private_bytes_raw()


def test_their_public_halves_are_what_callers_are_shown(tmp_path: Path, secrets: SecretStore) -> None:
    keys = open_keys(tmp_path, secrets)
    signature = keys.sign.sign(b"an end")
    keys.sign.public_key().verify(signature, b"an end")
    assert keys.public == {
        "sign": "ed25519:" + base64.b64encode(keys.sign.public_key().public_bytes_raw()).decode(),
        "seal": "x25519:" + base64.b64encode(keys.seal.public_key().public_bytes_raw()).decode(),
    }


def test_nothing_of_them_stands_in_clear(tmp_path: Path, secrets: SecretStore) -> None:
    keys = open_keys(tmp_path, secrets)
    path = keys_file(tmp_path)
    kept = path.read_bytes()
    for private in (keys.sign.private_bytes_raw(), keys.seal.private_bytes_raw()):
        assert private not in kept
        assert base64.b64encode(private) not in kept
    assert json.loads(kept)["sign"].startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "sign_bytes" not in repr(keys)
    assert repr(keys.sign_bytes) not in repr(keys)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_with_another_passphrase_they_are_refused_and_nothing_is_replaced(tmp_path: Path, secrets: SecretStore) -> None:
    first = open_keys(tmp_path, secrets)
    secrets.set(PASSPHRASE, "another")
    with pytest.raises(EnrolmentError, match="remove this file, and the agent makes new keys"):
        open_keys(tmp_path, secrets)
    assert public_keys(tmp_path) == first.public


def test_an_enrolment_after_the_loss_of_the_passphrase_makes_others(tmp_path: Path, secrets: SecretStore) -> None:
    first = open_keys(tmp_path, secrets)
    secrets.delete(PASSPHRASE)
    with pytest.raises(SecretError, match="enrol again"):
        open_keys(tmp_path, secrets)
    secrets.set(PASSPHRASE, "as enrolment makes it")
    second = open_keys(tmp_path, secrets, replace=True)
    assert second.public != first.public
    assert open_keys(tmp_path, secrets).public == second.public


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b"{}", b'{"format": "outhaul-agent-keys-2"}'])
def test_a_damaged_file_names_itself_and_the_fix(tmp_path: Path, secrets: SecretStore, kept: bytes) -> None:
    open_keys(tmp_path, secrets)
    keys_file(tmp_path).write_bytes(kept)
    with pytest.raises(EnrolmentError, match=r"keys\.json: .*Put back a copy"):
        open_keys(tmp_path, secrets)
    with pytest.raises(EnrolmentError, match=r"keys\.json: can't be read"):
        public_keys(tmp_path)


def test_there_are_none_before_the_first_start(tmp_path: Path) -> None:
    assert public_keys(tmp_path) is None
