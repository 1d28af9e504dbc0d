"""The caller's own key: how it is made, kept and read, and what is signed with it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud_broker.client.api import Outhaul
from cloud_broker.client.cli import main
from cloud_broker.client.errors import TenantChanged, WordsError
from cloud_broker.client.known_agents import KnownAgent, check
from cloud_broker.client.signing import Signer, Work, keep_signature, kept_signature, params_digest, work_of
from protocol import signing
from tests.cloud_broker.client.raw import RawServer, reply

WORK = Work("acme", "order", "1", params_digest(b'{"a":1}'), agent="plant-1")


def never() -> str:
    raise AssertionError("no passphrase is wanted")


def keygen(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["keygen", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def passphrase(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OUTHAUL_SIGN_PASSPHRASE", "correct horse")
    return "correct horse"


def test_what_keygen_prints_is_what_the_operators_file_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], passphrase: str
) -> None:
    path = tmp_path / "shop.key"
    code, out, err = keygen(capsys, "web-shop", "--out", str(path))
    signer = Signer.load(path, lambda: passphrase)
    assert code == 0
    assert tomllib.loads(out) == {"policy": {"trusted_signers": {"web-shop": signer.public}}}
    assert signing.fingerprint(signer.public) in err
    assert signer.name == "web-shop"
    assert signer._key.private_bytes_raw() not in path.read_bytes()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_with_a_dot_is_no_table(tmp_path: Path) -> None:
    line = Signer.make("shop.example").line
    assert list(tomllib.loads(line)) == ["shop.example"]


def test_a_key_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "web-shop.key"
    assert keygen(capsys, "web-shop", "--out", str(path), "--no-passphrase")[0] == 0
    kept = path.read_bytes()
    code, out, err = keygen(capsys, "web-shop", "--out", str(path), "--no-passphrase")
    assert (code, out) == (2, "")
    assert "never written over" in err
    assert path.read_bytes() == kept


def test_with_json_nothing_of_the_private_key_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], passphrase: str
) -> None:
    path = tmp_path / "k"
    _, out, _ = keygen(capsys, "web-shop", "--out", str(path), "--json")
    facts = json.loads(out)
    signer = Signer.load(path, lambda: passphrase)
    assert facts == {
        "name": "web-shop",
        "file": str(path),
        "public": signer.public,
        "fingerprint": signing.fingerprint(signer.public),
        "line": f'web-shop = "{signer.public}"',
    }
    assert "key=" not in repr(signer)


@pytest.mark.parametrize("name", ["", "web shop", "a" * 65, "-x", "ü"])
def test_a_name_that_no_file_takes_is_refused(name: str) -> None:
    with pytest.raises(WordsError, match="a signer's name"):
        Signer.make(name)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    Signer.make("web-shop").keep(path, None)
    if sys.platform == "win32":
        return  # it has no such rights; its folders keep others out
    path.chmod(0o640)
    with pytest.raises(WordsError, match="chmod 600"):
        Signer.load(path, never)


def test_a_wrong_passphrase_is_told_and_shown_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "k"
    Signer.make("web-shop").keep(path, "right")
    with pytest.raises(WordsError, match="the passphrase is wrong") as caught:
        Signer.load(path, lambda: "wrong-word")
    assert "wrong-word" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"]
)
def test_what_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(WordsError, match="holds no private key"):
        Signer.load(path, never)


def test_a_key_that_openssl_made_does_too_and_openssl_reads_ours(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", theirs], check=True, capture_output=True)
    theirs.chmod(0o600)
    with pytest.raises(WordsError, match="--signer NAME"):
        Signer.load(theirs, never)
    assert Signer.load(theirs, never, "web-shop").public.startswith("ed25519:")
    signer = Signer.make("web-shop")
    signer.keep(ours, "word")
    shown = subprocess.run(
        ["openssl", "pkey", "-in", ours, "-passin", "env:WORD", "-pubout", "-outform", "DER"],
        check=True,
        capture_output=True,
        env=os.environ | {"WORD": "word"},
    )
    assert shown.stdout[-32:] == signing.public_key_bytes(signer.public)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    with pytest.raises(WordsError, match="wants an Ed25519 key"):
        Signer.load(path, never)


def test_what_is_signed_is_what_was_asked_for_and_the_time() -> None:
    signer = Signer.make("web-shop")
    jws = signing.parse(signer.sign(WORK, "order-4711", 90.5, now=1_790_000_000.7), signing.COMMAND)
    Ed25519PublicKey.from_public_bytes(signing.public_key_bytes(signer.public)).verify(jws.signature, jws.signed)
    assert jws.kid == "web-shop"
    claims = signing.read_command(jws.payload)
    assert (claims.tenant, claims.agent, claims.operation, claims.version) == ("acme", "plant-1", "order", "1")
    assert (claims.idempotency_key, claims.nbf, claims.exp) == ("order-4711", 1_790_000_000, 1_790_000_090)


@pytest.mark.parametrize("valid_s", [0, -1, 0.5, 31 * 86_400 + 1])
def test_a_validity_that_no_agent_takes_is_refused(valid_s: float) -> None:
    with pytest.raises(WordsError, match="31 days"):
        Signer.make("web-shop").sign(WORK, "k", valid_s)


def test_parameters_that_two_readers_could_take_differently_are_not_signed() -> None:
    with pytest.raises(WordsError, match="stands twice"):
        params_digest(b'{"a":1,"a":2}')


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["call", "plant-1", "echo", "--signer", "x"], "--signer goes with --sign-with"),
        (["call", "plant-1", "echo", "--valid", "1h"], "--valid goes with --sign-with"),
        (["call", "plant-1", "echo", "--operation-version", "1"], "--operation-version goes with --sign-with"),
        (["call", "plant-1", "echo", "--sign-with", "nowhere.key"], "nowhere.key can't be read"),
        (["call", "plant-1", "echo", "--signature", "x"], "--signature goes with --sign-with"),
        (["commands", "verify", "cmd_1", "--signature", "nowhere"], "nowhere can't be read"),
        (["commands", "verify", "cmd_1", "--params", "{}", "--seal-key", "x"], "give one of them"),
        (["replay", "cmd_1", "--params", "{}"], "--params and --seal-key go with --sign-with"),
        (["replay", "cmd_1", "cmd_2", "--sign-with", "k", "--params", "{}"], "wants one ID"),
        (["replay", "cmd_1", "--sign-with", "k"], "--params as they were"),
        (["replay", "--all", "--sign-with", "k"], "--sign-with goes with one ID"),
        (["commands", "verify", "cmd_1", "--agent-keys", "x25519:AAAA"], "begins with ed25519:"),
    ],
)
def test_words_that_do_not_go_together_are_told(
    words: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment: dict[str, Any] = {"OUTHAUL_URL": "http://127.0.0.1:9", "OUTHAUL_KEY": "ohk_x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    assert why in capsys.readouterr().err


# --- the tenant that is signed for --------------------------------------------------------------------


def told(tenant: str) -> bytes:
    return reply(200, json.dumps({"name": "plant-1", "tenant": tenant}).encode())


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of what was seen before."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    return tmp_path / "outhaul" / "known_agents.json"


def test_a_broker_that_names_another_tenant_than_before_gets_no_signature(known: Path) -> None:
    with RawServer([told("acme"), told("acme"), told("beta")]) as server, Outhaul(server.url, "key") as client:
        first = work_of(client, "plant-1", "order", version="1")
        assert (first.tenant, first.tenant_kept) == ("acme", known)
        assert work_of(client, "plant-1", "order", version="1").tenant_kept is None
        with pytest.raises(TenantChanged, match=r"your tenant is beta, and before it was acme: nothing was signed"):
            work_of(client, "plant-1", "order", version="1")


def test_a_tenant_that_the_caller_names_is_signed_for_whatever_the_broker_says(known: Path) -> None:
    with RawServer([told("beta")]) as server, Outhaul(server.url, "key", tenant="acme") as client:
        assert work_of(client, "plant-1", "order", version="1").tenant == "acme"
        assert server.requests == []
    assert not known.exists()


def test_agents_that_were_seen_before_tell_whose_they_are(known: Path) -> None:
    with RawServer([told("beta")]) as server, Outhaul(server.url, "key") as client:
        check(client.url, None, "plant-9", KnownAgent("acme", "ed25519:a", "x25519:b"))
        with pytest.raises(TenantChanged):
            work_of(client, "plant-1", "order", version="1")


def test_a_signature_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "order.jws"
    keep_signature(path, "a.b.c")
    assert kept_signature(path) == "a.b.c"
    with pytest.raises(WordsError, match="is there already"):
        keep_signature(path, "d.e.f")
    assert kept_signature(path) == "a.b.c"
