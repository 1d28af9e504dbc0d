"""Both programs with a corporate network between them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.dev.odd_proxies import OddProxy
from tests.waiting import until_so
from tests.whole.site import AgentSite, Broker, Caller, broker

PROBE = """
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""
IDLE_S = 3.0  # the laboratory's 30 seconds


class Running:
    """A proxy on a loop and a thread of its own: the programs are waited for without one."""

    def __init__(self, proxy: OddProxy) -> None:
        self.proxy = proxy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.proxy.__aexit__(None, None, None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def proxy() -> Iterator[OddProxy]:
    """One that wants NTLM, closes after its first 407, splits its answers, and cuts idle links."""
    running = Running(
        OddProxy(
            login=["Negotiate", "NTLM"],
            accounts={"CORP\\plant": "s3cret"},
            hangs_up_after_407=True,
            splits=True,
            idle_s=IDLE_S,
        )
    )
    yield running.proxy
    running.stop()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker of the test's own, and a tenant."""
    with broker(tmp_path / "broker") as made, made.tenant("acme") as caller:
        yield made, caller


def test_an_agent_lives_behind_the_worst_proxy_of_all(
    tmp_path: Path, platform: tuple[Broker, Caller], proxy: OddProxy
) -> None:
    made, caller = platform
    url = proxy.url.replace("://", "://CORP%5Cplant:{secret:proxy}@")
    site = AgentSite(tmp_path / "agent", f'[link]\nproxy = "{url}"\nheartbeat = "1s"\n{PROBE}')
    site.secret("proxy", "s3cret")
    site.enrol(made.token("acme", site.agent))
    site.start(caller)
    try:
        tunnels, up = proxy.tunnels, time.monotonic()
        answer = site.cli("check", "--json")
        assert answer.exit_code == 0, answer.text
        found = {finding["stage"]: finding for finding in json.loads(answer.out)["stages"]}
        assert "logged in by Negotiate" in found["proxy"]["detail"]
        assert found["throughput"]["ok"] is True
        assert proxy.tunnels == tunnels + 2
        # Far longer than the proxy leaves an idle link: it was never idle.
        until_so(lambda: proxy.cut_idle or time.monotonic() > up + 2.5 * IDLE_S)
        assert caller.run("echo", {"text": "x"})["state"] == "succeeded"
        assert proxy.cut_idle == 0
        assert proxy.tunnels == tunnels + 2
    finally:
        site.program.stop()
    log = site.program.log.read_text()
    assert log.count("link is up") == 1
    assert "s3cret" not in log
