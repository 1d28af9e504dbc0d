"""One identity after another: whatever ends in between, one is left that works."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from agent import durable_file
from agent.identity import certificates, succession
from agent.identity import held as identity
from cloud_broker.identity.authority import Authority

A, B = "a" * 40, "b" * 40


def issued(authority: Authority, folder: Path, agent: str = "plant-1") -> tuple[certificates.Issued, bytes]:
    """A certificate and its key, as a broker gives them."""
    pending = certificates.pending(folder, "test", "passphrase")
    der, _, _ = authority.sign_agent(certificates.signing_request(pending.key), "acme", agent, time.time())
    return certificates.checked(der, pending.key, "acme", agent), pending.key_pem


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A state_dir with two identities of which none is in force."""
    authority = Authority.create(tmp_path / "broker", time.time())
    for serial in (A, B):
        found, key_pem = issued(authority, tmp_path / "pending" / serial)
        made = succession.write_beside(
            tmp_path,
            certificates.Issued(found.pem, serial, found.tenant, found.agent, found.not_before, found.not_after),
            key_pem=key_pem,
            authorities=[authority.ca_der],
            url="wss://broker.example.com:8443",
            obtained_at=time.time(),
        )
        assert made.serial == serial
    return tmp_path


def names(state_dir: Path) -> tuple[str | None, str | None]:
    return identity.current_serial(state_dir), identity.other_serial(state_dir)


def test_nothing_is_in_force_before_it_is_put_there(top: Path) -> None:
    assert names(top) == (None, None)
    assert identity.find(top) is None


def test_a_switch_keeps_the_one_before_until_the_broker_took_the_new_one(top: Path) -> None:
    succession.put_in_force(top, A)
    assert succession.switch(top, A, B)
    assert names(top) == (B, A)
    succession.settle(top, B)
    assert names(top) == (B, None)
    assert not (top / "identity" / A).exists()


def test_a_refused_one_makes_room_for_the_other_and_back_again(top: Path) -> None:
    succession.put_in_force(top, A)
    succession.switch(top, A, B)
    assert succession.go_back(top, B) == A
    assert names(top) == (A, B)
    assert succession.go_back(top, A) == B
    assert names(top) == (B, A)
    # What was refused is not in force any more: nothing to go back from.
    assert succession.go_back(top, A) is None


def test_without_another_a_refused_one_stays(top: Path) -> None:
    succession.put_in_force(top, A)
    assert succession.go_back(top, A) is None
    assert names(top) == (A, None)


def test_a_certificate_that_was_enrolled_meanwhile_stands(top: Path) -> None:
    succession.put_in_force(top, B)
    assert not succession.switch(top, A, "c" * 40)
    assert names(top) == (B, None)
    succession.settle(top, A)
    assert (top / "identity" / A).exists()


def test_what_else_is_in_the_folder_stays(top: Path) -> None:
    succession.put_in_force(top, A)
    (top / "identity" / "keys").mkdir()
    (top / "identity" / "renewal").mkdir()
    succession.switch(top, A, B)
    assert succession.go_back(top, B) == A
    succession.settle(top, A)
    left = {path.name for path in (top / "identity").iterdir()}
    assert left == {A, "keys", "current"}


def test_a_renewal_that_is_under_way_is_not_cleared_away(top: Path) -> None:
    succession.put_in_force(top, A)
    succession.settle(top, A)
    assert (top / "identity" / B / "identity.json").exists()


def test_what_was_cleared_away_is_not_put_in_force(top: Path) -> None:
    succession.put_in_force(top, A)
    succession.clear(top / "identity", keep={A})
    assert not succession.switch(top, A, B)
    assert names(top) == (A, None)


def test_a_request_goes_with_what_came_of_it(top: Path) -> None:
    succession.put_in_force(top, A)
    (top / "identity" / "renewal").mkdir()
    succession.switch(top, A, B)
    succession.settle(top, B)
    assert {path.name for path in (top / "identity").iterdir()} == {B, "current"}


def test_a_full_disk_leaves_what_is_in_force(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succession.put_in_force(top, A)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable_file, "write", full)
        for change in (
            lambda: succession.switch(top, A, B),
            lambda: succession.put_in_force(top, B),
        ):
            with pytest.raises(OSError, match="No space left"):
                change()
    assert names(top) == (A, None)


def test_an_identity_that_is_replaced_while_it_is_read_is_read_again(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succession.put_in_force(top, A)
    real = identity.of_serial
    seen: list[str] = []

    def replaced(state_dir: Path, serial: str, passphrase: str = "") -> identity.Identity:
        if not seen:
            succession.switch(top, A, B)
            succession.settle(top, B)
        seen.append(serial)
        return real(state_dir, serial, passphrase)

    monkeypatch.setattr(identity, "of_serial", replaced)
    found = identity.find(top)
    assert found is not None
    assert found.serial == B
    assert seen == [A, B]
