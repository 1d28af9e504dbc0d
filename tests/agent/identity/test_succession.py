"""One identity after another: whatever ends in between, one is left that works."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import durable_file
from agent.errors import EnrolmentError
from agent.identity import certificates, enrolment, succession
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
    assert left == {A, "keys", "current", "lock"}


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
    assert {path.name for path in (top / "identity").iterdir()} == {B, "current", "lock"}


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


# Renews again and again, as a running agent does: the two identities change places, and the one before is cleared away.
RENEWING = """
import sys
from pathlib import Path
from agent.identity import certificates, succession
from agent.identity import held
top, made = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not (top / "enough").exists():
    before = held.current_serial(top)
    for path in sorted(made.iterdir()):
        issued = certificates.Issued((path / "crt").read_bytes(), path.name, "acme", "plant-1", 0.0, 4e9)
        key_pem = (path / "key").read_bytes()
        succession.write_beside(
            top, issued, key_pem=key_pem, authorities=[], url="wss://b.example.com:1", obtained_at=1.0
        )
        if before and before != path.name and succession.switch(top, before, path.name):
            succession.settle(top, path.name)
        before = held.current_serial(top)
"""


def test_enrolling_while_another_process_renews_mixes_nothing(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "broker", time.time())
    made: list[tuple[certificates.Issued, bytes]] = []
    for number in range(4):
        found, key_pem = issued(authority, tmp_path / "pending" / str(number))
        made.append((found, key_pem))
        if number >= 2:
            folder = tmp_path / "made" / found.serial
            folder.mkdir(parents=True)
            (folder / "crt").write_bytes(found.pem)
            (folder / "key").write_bytes(key_pem)
    top = tmp_path / "agent"

    def enrol(number: int) -> None:
        found, key_pem = made[number]
        succession.replace_all(
            top, found, key_pem=key_pem, authorities=[], url="wss://b.example.com:1", obtained_at=1.0
        )

    enrol(0)
    command = [sys.executable, "-c", RENEWING, str(top), str(tmp_path / "made")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as renewing:
        assert renewing.stdout is not None
        assert renewing.stdout.readline() == "ready\n"
        for turn in range(60):
            enrol(turn % 2)
            who = identity.find(top)
            assert who is not None
            assert {path.name for path in who.folder.iterdir()} == {"agent.key", "agent.crt", "ca.crt", "identity.json"}
        (top / "enough").touch()
        assert renewing.wait(timeout=60) == 0
    by_serial = {found.serial: key_pem for found, key_pem in made}
    last = identity.find(top)
    assert last is not None
    assert last.key.read_bytes() == by_serial[last.serial]


def test_who_finds_the_identity_held_is_told_what_to_do(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succession.put_in_force(top, A)
    monkeypatch.setattr(succession, "WAIT_S", 0.1)
    holding = "import sys; from agent.journal.lock import lock_soon; import os\n"
    holding += "assert lock_soon(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 1.0); print('held', flush=True); input()"
    command = [sys.executable, "-c", holding, str(top / "identity" / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(EnrolmentError, match=r"in a minute.*stop the agent's service"), enrolment.written_in(top):
            succession.switch(top, A, B)
        holder.communicate("\n", timeout=20)
    assert succession.switch(top, A, B)
