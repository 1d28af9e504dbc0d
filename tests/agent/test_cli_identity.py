"""``outhaul-agent identity``, and what ``check`` says of the certificate."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.check.identity import certificate
from agent.cli import cli
from agent.errors import EnrolmentError
from agent.identity import authorities
from agent.identity import held as identity
from agent.identity.enrolment import enroll
from agent.identity.held import Identity
from agent.identity.validity import DAY_S
from agent.secrets import open_store
from tests.agent.link.broker import AGENT, TENANT, broker, settings_of

FILE = 'agent = "plant-1"\nstate_dir = "state"\n[link]\nproxy = "none"\n'


async def test_it_tells_who_the_agent_is_and_until_when(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(FILE)
    state = tmp_path / "state"
    settings = settings_of(state)
    async with broker(tmp_path / "broker") as there:
        state.mkdir()
        who = await enroll(settings, await there.token(), open_store(settings, tmp_path), state)
    answer = CliRunner().invoke(cli, ["identity", "--json", "--config", str(file)], catch_exceptions=False)
    told = json.loads(answer.stdout)
    assert (told["tenant"], told["agent"], told["broker"]) == (TENANT, AGENT, who.url)
    assert told["certificate"]["serial"] == who.serial
    assert told["certificate"]["not_after"].startswith(time.strftime("%Y-%m-", time.gmtime(who.not_after)))
    days = (who.not_after - who.obtained_at) / 3 / DAY_S
    assert days == pytest.approx(10, abs=0.1)
    assert told["certificate"]["left"] in ("is good for 30 days more", "is good for 29 days more")
    assert told["authorities"] == authorities.fingerprints([there.authority.ca_der])
    text = CliRunner().invoke(cli, ["identity", "--config", str(file)], catch_exceptions=False).output
    for wanted in (TENANT, AGENT, who.url, who.serial, f"sha256:{told['authorities'][0]}", "by itself, about 20"):
        assert wanted in text


def test_an_agent_that_never_enrolled_is_told_how(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(FILE)
    with pytest.raises(EnrolmentError, match="outhaul-agent enroll --token TOKEN"):
        CliRunner().invoke(cli, ["identity", "--config", str(file)], catch_exceptions=False, standalone_mode=False)
    assert identity.find(tmp_path / "state") is None


def of_month(*, own: bool = False) -> Identity:
    """An identity of thirty days."""
    paths = Path("plant.crt"), Path("plant.key"), Path("ca.crt")
    return Identity(*paths, TENANT, AGENT, "wss://broker:8443", "01", 0.0, 30 * DAY_S, "", own)


@pytest.mark.parametrize(
    ("days", "own", "ok", "says", "fix"),
    [
        (1, False, True, "is good for 29 days more", ""),
        (22, False, None, "is good for 8 days more", "start the agent: it renews by itself"),
        (22, True, None, "is good for 8 days more", "put a renewed certificate into plant.crt"),
        (31, False, False, "has run out", "start the agent: it renews by itself"),
        (31, True, False, "has run out, until 1970-01-31", "put a renewed certificate into plant.crt"),
    ],
)
def test_check_says_what_is_left_and_what_to_do(days: int, own: bool, ok: bool | None, says: str, fix: str) -> None:
    found = certificate(of_month(own=own), days * DAY_S)
    assert found.ok is ok
    assert says in found.detail
    if fix:
        assert found.fix == fix


def test_check_says_that_a_clock_may_be_wrong() -> None:
    paths = Path("plant.crt"), Path("plant.key"), Path("ca.crt")
    late = Identity(*paths, TENANT, AGENT, "wss://broker:8443", "01", 50 * DAY_S, 30 * DAY_S, "")
    assert "is this machine's clock right?" in certificate(late, 60 * DAY_S).detail
