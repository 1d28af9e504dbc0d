"""Enrolment, end to end: a real broker's port, store and authority."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent.errors import EnrolmentError, LinkError, SecretError, TokenRefused
from agent.identity import held as identity
from agent.identity.enrolment import enroll, parse_token
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer
from cloud_broker.identity.authority import Authority
from config.dev.databases import free_port
from tests.agent.link.broker import AGENT, TENANT, broker, secrets_in, settings_of


def changed(token: str, **facts: Any) -> str:
    """The same token with other facts in it."""
    body = token.removeprefix("oht1.")
    content = {**json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))), **facts}
    return "oht1." + base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


async def test_an_agent_that_enrolled_is_let_in_under_its_name(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        before = time.time()
        who = await enroll(settings_of(state), await there.token(), secrets, state)
        assert (who.tenant, who.agent, who.url) == (TENANT, AGENT, there.url)
        assert before <= who.obtained_at <= time.time()
        assert 29 * 86_400 < who.not_after - time.time() < 31 * 86_400
        transport = await WebsocketDialer(state, Routes("none"), secrets).connect()
        await transport.send(b"hello")
        assert await transport.receive() == b"hello"
        assert transport.peer.tls.startswith("TLSv1.3")
        await transport.close()
        await transport.close()
        assert [(peer.tenant, peer.agent, peer.serial) for peer in there.peers] == [(TENANT, AGENT, who.serial)]


async def test_the_key_is_locked_and_the_passphrase_only_in_the_store_of_secrets(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        who = await enroll(settings_of(state), await there.token(), secrets, state)
    passphrase = secrets.get(identity.PASSPHRASE)
    assert passphrase
    assert passphrase not in repr(who)
    for path in state.rglob("*"):
        if path.is_file():
            assert passphrase.encode() not in path.read_bytes(), path
            assert b"PRIVATE KEY" not in path.read_bytes() or b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
        if os.name == "posix" and "identity" in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    secrets.delete(identity.PASSPHRASE)
    with pytest.raises(SecretError, match="identity-passphrase"):
        identity.load(state, secrets)


async def test_a_token_works_once(tmp_path: Path) -> None:
    async with broker(tmp_path / "broker") as there:
        token = await there.token()
        first, second = tmp_path / "first", tmp_path / "second"
        await enroll(settings_of(first), token, secrets_in(first), first)
        with pytest.raises(
            TokenRefused, match=r"used already on .* create a new one with `outhaul-broker token create`"
        ):
            await enroll(settings_of(second), token, secrets_in(second), second)
        assert identity.find(second) is None
        # Not by its own agent either, once that has its certificate.
        with pytest.raises(TokenRefused, match="used already"):
            await enroll(settings_of(first), token, secrets_in(first), first)


async def test_an_expired_token_is_refused_for_good(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    async with broker(tmp_path / "broker") as there:
        with pytest.raises(TokenRefused, match="expired on"):
            await enroll(settings_of(state), await there.token(ttl_s=-60), secrets_in(state), state)


async def test_an_unknown_secret_is_refused_for_good(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    async with broker(tmp_path / "broker") as there:
        token = changed(await there.token(), secret="guessed")
        with pytest.raises(TokenRefused, match="unknown token"):
            await enroll(settings_of(state), token, secrets_in(state), state)


async def test_wrong_secrets_by_the_dozen_are_slowed_down_without_spoiling_the_token(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    async with broker(tmp_path / "broker") as there:
        token = await there.token()
        for guess in range(10):
            with pytest.raises(TokenRefused):
                await enroll(settings_of(state), changed(token, secret=str(guess)), secrets_in(state), state)
        with pytest.raises(EnrolmentError, match="too many wrong tokens") as caught:
            await enroll(settings_of(state), changed(token, secret="10"), secrets_in(state), state)
        assert not isinstance(caught.value, TokenRefused)
        await enroll(settings_of(state), token, secrets_in(state), state)


async def test_a_lost_answer_repeated_gives_the_same_certificate(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        token = await there.token()
        there.answer_lost = True
        with pytest.raises(LinkError, match="closed the link"):
            await enroll(settings_of(state), token, secrets, state)
        assert len(there.enrolled) == 1
        assert identity.find(state) is None
        who = await enroll(settings_of(state), token, secrets, state)
        assert there.enrolled[0] == there.enrolled[1]
        assert who.not_after == there.enrolled[0].not_after
        transport = await WebsocketDialer(state, Routes("none"), secrets).connect()
        await transport.close()
    assert not (state / "identity" / "pending").exists()


async def test_a_stolen_token_with_another_key_gets_nothing(tmp_path: Path) -> None:
    state, thief = tmp_path / "agent", tmp_path / "thief"
    async with broker(tmp_path / "broker") as there:
        token = await there.token()
        there.answer_lost = True
        with pytest.raises(LinkError):
            await enroll(settings_of(state), token, secrets_in(state), state)
        # Even one that read the request id from the disk: the key is another.
        with pytest.raises(LinkError):
            await enroll(
                settings_of(thief), changed(token, url=f"wss://127.0.0.1:{free_port()}"), secrets_in(thief), thief
            )
        shutil.copy(state / "identity/pending/pending.json", thief / "identity/pending/pending.json")
        with pytest.raises(TokenRefused, match="used already"):
            await enroll(settings_of(thief), token, secrets_in(thief), thief)


async def test_an_authority_that_the_token_does_not_name_is_not_trusted(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    other = Authority.create(tmp_path / "other", time.time())
    async with broker(tmp_path / "broker") as there:
        token = changed(await there.token(), ca=base64.b64encode(other.ca_der).decode())
        with pytest.raises(LinkError, match=r"was issued by CN=Outhaul authority .* inspected") as caught:
            await enroll(settings_of(state), token, secrets_in(state), state)
        assert caught.value.stage == "tls"
        assert there.enrolled == []


async def test_a_new_token_replaces_the_certificate_of_the_same_agent(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        serials = [(await enroll(settings_of(state), await there.token(), secrets, state)).serial for _ in range(3)]
        assert len(set(serials)) == 3
        dialer = WebsocketDialer(state, Routes("none"), secrets)
        await (await dialer.connect()).close()
        assert there.peers[-1].serial == serials[-1]
        # The one before stays, as a running agent may be reading it; older ones go.
        assert {path.name for path in (state / "identity").iterdir() if path.is_dir()} == set(serials[1:])


async def test_a_failed_enrolment_leaves_the_identity_that_was_there(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        before = await enroll(settings_of(state), await there.token(), secrets, state)
        with pytest.raises(TokenRefused):
            await enroll(settings_of(state), await there.token(ttl_s=-60), secrets, state)
        assert identity.load(state, secrets) == before
        await (await WebsocketDialer(state, Routes("none"), secrets).connect()).close()


async def test_another_agents_identity_is_replaced_only_by_force(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        settings, token = settings_of(state, agent="plant-2"), await there.token("plant-2")
        with pytest.raises(EnrolmentError, match="this agent is 'plant-1' of tenant 'acme'"):
            await enroll(settings, token, secrets, state)
        who = await enroll(settings, token, secrets, state, force=True)
        assert who.agent == "plant-2"


async def test_the_files_name_must_be_the_tokens(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    async with broker(tmp_path / "broker") as there:
        with pytest.raises(EnrolmentError, match="the operator's file says 'plant-9', the token is for 'plant-1'"):
            await enroll(settings_of(state, agent="plant-9"), await there.token(), secrets_in(state), state)
        assert there.enrolled == []


async def test_a_state_dir_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    state = tmp_path / "agent"
    secrets = secrets_in(tmp_path / "secrets")
    state.write_text("a file where a folder should be")
    async with broker(tmp_path / "broker") as there:
        with pytest.raises(EnrolmentError, match="run this as the agent's account"):
            await enroll(settings_of(state), await there.token(), secrets, state)
        assert there.enrolled == []


def test_an_agent_without_identity_is_told_the_command(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="outhaul-agent enroll --token TOKEN"):
        identity.load(tmp_path, secrets_in(tmp_path))


@pytest.mark.parametrize("name", ["agent.key", "agent.crt", "ca.crt", "identity.json"])
async def test_a_damaged_identity_is_told_with_its_place(name: str, tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        who = await enroll(settings_of(state), await there.token(), secrets, state)
    (who.folder / name).write_bytes(b"\xff damaged")
    with pytest.raises(EnrolmentError, match=f"{who.serial}.*enrol again with a new token"):
        identity.client_context(identity.load(state, secrets))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a token"),
        ("eyJhbGciOi", "not a token"),
        ("oht2.abc", "later release"),
        ("oht1.", "cut or damaged"),
        ("oht1.!!!!", "cut or damaged"),
        ("oht1.e30", "cut or damaged"),
        ("oht1.W10", "cut or damaged"),
        ("oht1.bnVsbA", "cut or damaged"),
    ],
)
def test_what_is_no_token_is_told_without_being_shown(text: str, sentence: str) -> None:
    with pytest.raises(EnrolmentError, match=sentence) as caught:
        parse_token(text)
    assert text[5:] == "" or text[5:] not in str(caught.value)


@pytest.mark.parametrize(
    "facts", [{"url": "http://a"}, {"url": "wss://"}, {"url": 1}, {"ca": "AAAA"}, {"ca": "?"}, {"ca": None}]
)
async def test_a_token_with_wrong_facts_is_told(facts: dict[str, Any], tmp_path: Path) -> None:
    async with broker(tmp_path / "broker") as there:
        with pytest.raises(EnrolmentError, match="cut or damaged"):
            parse_token(changed(await there.token(), **facts))


async def test_a_token_may_have_been_broken_into_lines(tmp_path: Path) -> None:
    async with broker(tmp_path / "broker") as there:
        token = await there.token()
    lines = "\r\n  ".join(token[at : at + 60] for at in range(0, len(token), 60))
    assert parse_token(f" {lines}\n") == parse_token(token)
    assert parse_token(token).secret not in repr(parse_token(token))
    assert x509.load_der_x509_certificate(parse_token(token).ca)


async def test_no_log_has_the_tokens_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / "agent"
    with caplog.at_level(logging.DEBUG):
        async with broker(tmp_path / "broker") as there:
            token = await there.token()
            caplog.clear()
            await enroll(settings_of(state), token, secrets_in(state), state)
    said = [record for record in caplog.records if parse_token(token).secret[:12] in record.getMessage()]
    assert [record.name for record in said if not record.name.startswith("websockets.server")] == []
