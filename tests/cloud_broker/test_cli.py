"""The ``outhaul-broker`` command as its own process, with the exit codes and documents that scripts rely on."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509

from cloud_broker.callers.keys import sha256_of
from cloud_broker.cli import main
from cloud_broker.identity.authority import Authority
from cloud_broker.settings import Settings
from cloud_broker.store.open import open_store
from cloud_broker.tenants import Scope
from tests.contracts.records import agent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command_in(folder: Path) -> Run:
    """Return what runs the command with a file in ``folder``."""
    own = folder / "broker.toml"
    own.write_text('data_dir = "data"\n[link]\npublic_url = "wss://broker.example.com:8443"\n', "utf-8")

    def started(*words: str, config: Path = own) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cloud_broker.cli import main; main()", *words]
        if words[0] != "version":
            command += ["--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return started


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command, with nothing set up yet."""
    return command_in(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a broker with the tenant acme, for what changes nothing."""
    folder = tmp_path_factory.mktemp("broker")
    made = command_in(folder)
    assert made("init").returncode == 0
    assert made("tenant", "create", "acme").returncode == 0
    return folder / "broker.toml"


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the one JSON document on stdout of a command that worked."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_broker_is_set_up_once(run: Run, tmp_path: Path) -> None:
    done = document(run("init", "--json"))

    assert list(done) == ["admin_key", "api_url", "link_url"]
    assert done["api_url"] == "http://127.0.0.1:8440"
    assert done["link_url"] == "wss://broker.example.com:8443"
    before = {path: path.read_bytes() for path in (tmp_path / "data").glob("ca.*")}
    assert len(before) == 2
    again = run("init")
    assert again.returncode == 1
    assert again.stdout == ""
    assert "set up here already" in again.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "data").glob("ca.*")} == before
    [key] = document(run("key", "list", "--json"))["items"]
    assert key["tenant"] is None
    assert key["scopes"] == ["*"]
    assert done["admin_key"].split("_")[1] == key["id"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights in the folder's list, not in a mode")
def test_what_is_set_up_is_its_owners_alone(run: Run, tmp_path: Path) -> None:
    run("init")

    data = tmp_path / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in ("ca.key", "broker.db"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600


def test_setting_up_that_was_stopped_half_way_is_finished(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Authority.create(tmp_path / "data", 1_700_000_000.0)
    certificate = (tmp_path / "data/ca.crt").read_bytes()

    assert document(run("init", "--json"))["admin_key"]
    assert (tmp_path / "data/ca.crt").read_bytes() == certificate


def test_from_nothing_to_a_token(run: Run, tmp_path: Path) -> None:
    run("init")
    assert document(run("tenant", "create", "acme", "--json"))["state"] == "active"
    key = document(run("key", "create", "--tenant", "acme", "--scope", "commands:read", "--ttl", "1h", "--json"))
    token = document(run("token", "create", "--tenant", "acme", "--agent", "plant-1", "--group", "plants", "--json"))

    assert list(key) == ["id", "key"]
    assert list(token) == ["token", "expires_at"]
    kind, _, content = token["token"].partition(".")
    inside = json.loads(base64.urlsafe_b64decode(content + "=="))
    assert kind == "oht1"
    assert {name: inside[name] for name in ("v", "url", "tenant", "agent")} == {
        "v": 1,
        "url": "wss://broker.example.com:8443",
        "tenant": "acme",
        "agent": "plant-1",
    }
    kept = x509.load_pem_x509_certificate((tmp_path / "data/ca.crt").read_bytes())
    assert x509.load_der_x509_certificate(base64.b64decode(inside["ca"])) == kept

    async def look() -> None:
        store = open_store(Settings(data_dir=tmp_path / "data"))
        await store.open()
        found = await store.key_by_hash(sha256_of(key["key"]))
        assert found is not None
        assert found.expires_at == pytest.approx(found.created_at + 3600)
        await store.close()
        for file in (tmp_path / "data").iterdir():
            for secret in (key["key"], inside["secret"]):
                assert secret.encode() not in file.read_bytes(), file

    asyncio.run(look())


def test_a_tenant_is_suspended_and_resumed(run: Run) -> None:
    run("init")
    run("tenant", "create", "acme")

    assert document(run("tenant", "suspend", "acme", "--json")) == {"name": "acme", "state": "suspended"}
    assert "suspended" in run("tenant", "list").stdout
    assert document(run("tenant", "resume", "acme", "--json"))["state"] == "active"
    [tenant] = document(run("tenant", "list", "--json"))["items"]
    assert tenant["state"] == "active"


def test_a_key_is_replaced_and_the_list_says_what_ends_soon(run: Run) -> None:
    run("init")
    run("tenant", "create", "acme")
    words = ("--tenant", "acme", "--scope", "commands:read", "--name", "web shop", "--owner", "ada", "--json")
    old = document(run("key", "create", *words))

    new = document(run("key", "rotate", old["id"], "--grace", "2h", "--json"))
    again = run("key", "rotate", old["id"])
    listed = {key["id"]: key for key in document(run("key", "list", "--tenant", "acme", "--json"))["items"]}

    assert new["key"] != old["key"]
    assert new["replaces"] == old["id"]
    assert again.returncode == 1
    assert "replaced already" in again.stderr
    assert (listed[old["id"]]["state"], listed[old["id"]]["replaced_by"]) == ("expires_soon", new["id"])
    assert listed[old["id"]]["expires_at"] <= new["old_key_ends_at"]
    assert (listed[new["id"]]["state"], listed[new["id"]]["name"], listed[new["id"]]["owner"]) == (
        "active",
        "web shop",
        "ada",
    )


def test_a_key_is_revoked(run: Run) -> None:
    run("init")
    key = document(run("key", "create", "--all-tenants", "--scope", "*", "--json"))

    assert document(run("key", "revoke", key["id"], "--json"))["revoked"]
    revoked = [one["revoked_at"] for one in document(run("key", "list", "--json"))["items"] if one["id"] == key["id"]]
    assert revoked != [None]


def test_agents_are_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    run("init")
    run("tenant", "create", "acme")
    token = document(run("token", "create", "--tenant", "acme", "--agent", "plant-1", "--json"))["token"]
    secret = json.loads(base64.urlsafe_b64decode(token.partition(".")[2] + "=="))["secret"]

    async def enrol() -> None:
        store = open_store(Settings(data_dir=tmp_path / "data"))
        await store.open()
        kept = await store.token_by_hash(sha256_of(secret))
        assert kept is not None
        assert await store.spend_token(kept.id, agent(Scope("acme")), "r1", b"der", 1.0)
        await store.close()

    asyncio.run(enrol())
    assert "plant-1" in run("agent", "list").stdout
    assert document(run("agent", "revoke", "--tenant", "acme", "plant-1", "--json"))["revoked"]
    [found] = document(run("agent", "list", "--tenant", "acme", "--json"))["items"]
    assert (found["name"], found["state"]) == ("plant-1", "revoked")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("tenant create acme", 1, "already"),
        ("tenant suspend nobody", 1, "there are: acme"),
        ("key create --tenant nobody --scope *", 1, "there are: acme"),
        ("token create --tenant nobody --agent a", 1, "there are: acme"),
        ("agent revoke --tenant acme nobody", 1, "has no agent"),
        ("key revoke nothing", 1, "no key"),
        ("key rotate nothing", 1, "no key"),
        ("key rotate nothing --grace 40d", 2, "at most 30d"),
        ("tenant create a/b", 2, "wants 1 to 64"),
        ("key create --tenant acme --scope fly", 2, "commands:write"),
        ("key create --tenant acme", 2, "--scope"),
        ("key create --scope *", 2, "--tenant"),
        ("key create --tenant acme --all-tenants --scope *", 2, "either"),
        ("token create --tenant acme --agent a --ttl soon", 2, "wants a duration"),
        ("token create --tenant acme --agent a --ttl 0", 2, "wants a duration"),
        ("token create --tenant acme --agent a --ttl 31d", 2, "at most 30d"),
        ("fly", 2, "No such command"),
    ],
)
def test_what_does_not_work_is_said_on_stderr_with_its_exit_code(ready: Path, words: str, code: int, said: str) -> None:
    done = CliRunner(env={"OUTHAUL_BROKER_CONFIG": str(ready)}).invoke(main, words.split())

    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", ["serve", "tenant list", "token create --tenant a --agent b"])
def test_a_broker_that_was_not_set_up_says_so(run: Run, words: str) -> None:
    done = run(*words.split())

    assert done.returncode == 1
    assert "run `outhaul-broker init` first" in done.stderr


def test_a_wrong_file_is_a_wrong_word(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("colour = 1", "utf-8")

    done = run("tenant", "list", config=wrong)

    assert done.returncode == 2
    assert f"{wrong}:1: colour: unknown key" in done.stderr


def test_the_version_needs_no_file(run: Run) -> None:
    assert document(run("version", "--json"))["version"]
    assert run("version").stdout.startswith("outhaul-broker ")
