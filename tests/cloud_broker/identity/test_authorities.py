"""One authority takes the place of another: the files, the running broker, and the agents that come along."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from websockets.exceptions import InvalidMessage, InvalidStatus

from cloud_broker import app
from cloud_broker.cli import main
from cloud_broker.identity import authorities
from cloud_broker.identity.authorities import Authorities, WrongPhase
from cloud_broker.identity.authority import Authority
from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.identity.rollover import progress
from cloud_broker.settings import CertificateSettings
from cloud_broker.store.agents import Agent, NextCertificate
from protocol.messages import Goodbye, Trust, Trusts
from tests.cloud_broker.plain_agent import ACME, PlainAgent, broker
from tests.waiting import until_seen

NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one authority."""
    Authority.create(tmp_path, NOW)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_authority_takes_the_place_of_another_in_three_steps(folder: Path) -> None:
    old = Authorities.load(folder)
    assert (old.phase, len(old.trusted)) == ("steady", 1)

    new = authorities.add(folder, NOW)
    both = Authorities.load(folder)
    assert (both.phase, both.issuing.fingerprint) == ("added", old.issuing.fingerprint)
    assert [one.fingerprint for one in both.trusted] == [old.issuing.fingerprint, new.fingerprint]

    authorities.switch(folder)
    both = Authorities.load(folder)
    assert (both.phase, both.issuing.fingerprint) == ("switched", new.fingerprint)

    assert authorities.drop(folder).fingerprint == old.issuing.fingerprint
    after = Authorities.load(folder)
    assert (after.phase, after.issuing.fingerprint) == ("steady", new.fingerprint)
    assert names(folder) == ["authority.json", "ca-2.crt", "ca-2.key"], "the old key is gone"
    assert authorities.are_in(folder)

    authorities.add(folder, NOW)
    assert "ca-3.key" in names(folder)


@pytest.mark.parametrize(
    ("done", "wanted", "following"),
    [
        ([], authorities.switch, "authority add"),
        ([], authorities.drop, "authority add"),
        (["add"], lambda folder: authorities.add(folder, NOW), "authority switch"),
        (["add"], authorities.drop, "authority switch"),
        (["add", "switch"], authorities.switch, "authority drop"),
    ],
)
def test_a_step_out_of_its_turn_says_which_comes_next(
    folder: Path, done: list[str], wanted: object, following: str
) -> None:
    for step in done:
        authorities.add(folder, NOW) if step == "add" else authorities.switch(folder)
    assert callable(wanted)
    with pytest.raises(WrongPhase, match=following):
        wanted(folder)


def test_an_add_that_was_cut_off_is_done_again(folder: Path) -> None:
    Authority.create(folder, NOW, "ca-2")  # its files are there, and no state names them
    made = authorities.add(folder, NOW)
    assert Authorities.load(folder).trusted[1].fingerprint == made.fingerprint


# Ends the process as a kill does, before the nth of all changes to the folder.
KILLED = """
import os, sys
from pathlib import Path
from cloud_broker.identity import authorities
left = int(sys.argv[2])
def watch(event, args):
    global left
    if event in ("os.remove", "os.rename") or (event == "open" and isinstance(args[0], str) and args[2] & os.O_CREAT):
        left -= 1
        if left < 0:
            os._exit(9)
sys.dont_write_bytecode = True
sys.addaudithook(watch)
authorities.drop(Path(sys.argv[1]))
"""


def test_a_drop_that_is_killed_at_any_point_leaves_no_key_for_long(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = authorities.add(folder, NOW)
    authorities.switch(folder)
    points, code = 0, 9
    while code == 9:
        copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("killed") / "data"))
        code = subprocess.run([sys.executable, "-c", KILLED, copy, str(points)], check=False, timeout=60).returncode
        # It is trusted still and all is there, or the next look removes it.
        removed = authorities.remove_dropped(copy)
        there = Authorities.load(copy)
        if there.phase == "switched":
            assert (removed, code) == ([], 9)
            authorities.drop(copy)
        assert Authorities.load(copy).issuing.fingerprint == new.fingerprint
        left = {path.name for path in copy.iterdir() if path.suffix != ".tmp"}
        assert left == {"authority.json", "ca-2.crt", "ca-2.key"}
        points += 1
    assert code == 0
    # Before the state is written, before it counts, before the key goes, before the certificate goes, and never.
    assert points == 5


def test_what_is_being_added_is_not_taken_for_left_over(folder: Path) -> None:
    Authority.create(folder, NOW, "ca-2")
    (folder / "ca-2.key.0123abcd.tmp").write_bytes(b"half")
    assert authorities.remove_dropped(folder) == []
    authorities.add(folder, NOW)
    assert names(folder) == ["authority.json", "ca-2.crt", "ca-2.key", "ca.crt", "ca.key"]


async def test_a_broker_that_starts_removes_what_a_drop_left(tmp_path: Path) -> None:
    async with broker(tmp_path):
        pass
    data = tmp_path / "data"
    old = {name: (data / name).read_bytes() for name in ("ca.key", "ca.crt")}
    authorities.add(data, time.time())
    authorities.switch(data)
    authorities.drop(data)
    for name, content in old.items():
        (data / name).write_bytes(content)
    async with broker(tmp_path):
        assert not any((data / name).exists() for name in old)


@pytest.mark.parametrize(
    "state",
    [
        b"{",
        b"[]",
        b'{"trusted": [], "issuing": "ca"}',
        b'{"trusted": ["ca"], "issuing": "ca-2"}',
        b'{"trusted": ["../ca"], "issuing": "../ca"}',
        b'{"trusted": ["ca", "ca-2", "ca-3"], "issuing": "ca"}',
    ],
)
def test_a_damaged_state_is_told(folder: Path, state: bytes) -> None:
    (folder / "authority.json").write_bytes(state)
    with pytest.raises(CertificateInvalid, match=r"authority\.json"):
        Authorities.load(folder)


def test_a_certificate_names_its_issuer(folder: Path) -> None:
    old, new = Authorities.load(folder).issuing, authorities.add(folder, NOW)
    other = Authority.create(folder / "other", NOW)
    both = Authorities.load(folder)
    ders = [one.ca_der for one in (old, new, other)]
    assert [both.issuer_of(der) for der in ders] == [old.fingerprint, new.fingerprint, None]


# --- who has come along ------------------------------------------------------------------------------------


def test_who_would_be_left_behind_is_named(folder: Path) -> None:
    old, new = Authorities.load(folder).issuing.fingerprint, authorities.add(folder, NOW).fingerprint
    here = Agent("acme", "a", None, "01", NOW + 100, NOW, issuer=old, trusts=(old,))
    agents = [
        here,
        replace(here, name="b", trusts=(old, new), issuer=new),
        replace(here, name="c", trusts=(old, new)),
        replace(here, name="revoked", revoked_at=NOW),
        replace(here, name="own", own_pki=True),
        replace(here, name="gone", not_after=NOW - 1_000),
        replace(here, name="d", not_after=NOW - 1_000, next=NextCertificate("02", NOW + 5, new, "r", b"")),
    ]
    found = progress(Authorities.load(folder), agents, 900.0, NOW)
    assert (found.agents, found.trusting, found.holding) == (4, 2, 1)
    assert found.untold == ("acme/a", "acme/d")
    assert found.unrenewed == ("acme/a", "acme/c", "acme/d")


# --- a broker that runs ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN_S", 0.1)


def run(folder: Path, *words: str) -> Result:
    """What an operator does beside a broker that runs."""
    (folder / "broker.toml").write_text('data_dir = "data"\n')
    return CliRunner().invoke(main, ["authority", *words, "--config", str(folder / "broker.toml")])


def facts(folder: Path, *words: str) -> dict[str, object]:
    answer = run(folder, *words, "--json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, object] = json.loads(answer.stdout)
    return found


async def let_in_for_ever(agent: PlainAgent) -> None:
    """Dial again and again, until the broker has seen that another authority is trusted no more."""
    while True:
        with contextlib.suppress(InvalidStatus, ssl.SSLCertVerificationError):
            async with agent.dial("/prove"):
                pass


async def test_agents_come_along_while_the_broker_runs_and_links_live_on(tmp_path: Path) -> None:
    async with broker(tmp_path) as there:
        one = await PlainAgent.enrolled(tmp_path / "one", there)
        two = await PlainAgent.enrolled(tmp_path / "two", there, "plant-2")
        async with one.link() as (link, welcome):
            await asyncio.to_thread(run, tmp_path, "add")
            told, _ = await link.hear(Trust)
            assert len(told.authorities) == 2
            one.authorities = [base64.b64decode(text) for text in told.authorities]
            await link.say(Trusts(one.trusts))

            refused = await asyncio.to_thread(run, tmp_path, "switch")
            assert refused.exit_code == 1
            assert "acme/plant-2" in refused.output
            assert "do not trust the new authority yet" in refused.output

            async with two.link() as (other, _):
                told, _ = await other.hear(Trust)
                two.authorities = [base64.b64decode(text) for text in told.authorities]
                await other.say(Trusts(two.trusts))
            await until_seen(lambda: facts(tmp_path, "status")["trust_all"] == 2)
            assert (await asyncio.to_thread(run, tmp_path, "switch")).exit_code == 0
            await until_seen(lambda: facts(tmp_path, "status")["phase"] == "switched")
            await link.hear(Trust)

            refused = await asyncio.to_thread(run, tmp_path, "drop")
            assert "2 of 2 agents have no certificate of the new authority yet" in refused.output
            lineages = {}
            for name, agent, shown in (("one", one, welcome.lineage), ("two", two, None)):
                async with agent.link(**({"lineage": shown} if shown else {})) as (again, greeted):
                    _, following = await agent.renewed(again)
                async with following.link(lineage=greeted.lineage) as (_, greeted):
                    lineages[name] = (following, greeted.lineage)
            await until_seen(lambda: facts(tmp_path, "status")["have_newest"] == 2)
            assert (await asyncio.to_thread(run, tmp_path, "drop")).exit_code == 0
        async with asyncio.timeout(20):
            with pytest.raises(InvalidMessage):
                await let_in_for_ever(one)
        following, shown = lineages["one"]
        following.authorities = following.authorities[1:]
        async with following.link(lineage=shown, trusts=following.trusts):
            known = await there.store.agent(ACME, "plant-1")
            assert known is not None
            assert known.issuer == hashlib.sha256(following.authorities[0]).hexdigest()


async def test_a_link_that_holds_a_certificate_of_a_dropped_authority_is_ended(tmp_path: Path) -> None:
    async with broker(tmp_path) as there:
        one = await PlainAgent.enrolled(tmp_path / "one", there)
        async with one.link() as (link, _):
            for words in (["add"], ["switch", "--force"], ["drop", "--force"]):
                answer = await asyncio.to_thread(run, tmp_path, *words)
                assert answer.exit_code == 0, answer.output
            while True:
                record, _ = await link.hear((Trust, Goodbye))
                if isinstance(record, Goodbye):
                    break
            assert record.code == "revoked"
            assert "was replaced" in record.reason


async def test_a_new_agent_knows_all_that_it_has_to_trust(tmp_path: Path) -> None:
    async with broker(tmp_path, certificates=CertificateSettings(life=600.0)) as there:
        await asyncio.to_thread(run, tmp_path, "add")
        one = await PlainAgent.enrolled(tmp_path / "one", there)
        async with asyncio.timeout(30):
            # The running broker sees the change within seconds.
            while len(one.told) < 2:
                one = await PlainAgent.enrolled(tmp_path / "one", there)
        known = await there.store.agent(ACME, "plant-1")
        assert known is not None
        assert known.not_after == pytest.approx(time.time() + 600, abs=30)
