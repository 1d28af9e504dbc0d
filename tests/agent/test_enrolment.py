"""Enrolment, end to end: a real broker's port, store and authority."""

from __future__ import annotations

from pathlib import Path

from agent.enrolment import enroll
from agent.link.websocket import WebsocketDialer
from tests.agent.link.broker import AGENT, TENANT, broker, secrets_in, settings_of


async def test_an_agent_that_enrolled_is_let_in_under_its_name(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        who = await enroll(settings_of(state), await there.token(), secrets, state)
        assert (who.tenant, who.agent, who.url) == (TENANT, AGENT, there.url)
        transport = await WebsocketDialer(state, "none", secrets).connect()
        await transport.send(b"hello")
        assert await transport.receive() == b"hello"
        assert transport.peer.tls.startswith("TLSv1.3")
        await transport.close()
        assert [(peer.tenant, peer.agent, peer.serial) for peer in there.peers] == [(TENANT, AGENT, who.serial)]
