"""The proxy settings of a Windows, as wine has them: named ones, exceptions, and a script that Windows runs."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from config.dev.wine import machine, windows_python
from tests.waiting import BUILD_S

SCRIPT = """
function FindProxyForURL(url, host) {
  if (dnsDomainIs(host, ".plant.example.com")) return "DIRECT";
  return "PROXY proxy.example.com:3128";
}
"""

pytestmark = pytest.mark.timeout(BUILD_S)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def script(tmp_path: Path) -> Iterator[str]:
    """The address of a PAC script."""
    (tmp_path / "proxy.pac").write_text(SCRIPT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/proxy.pac"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_proxies_that_windows_names_are_found(script: str) -> None:
    settings = [
        {"hosts": ["broker.example.com"]},
        {
            "proxy": "proxy:3128",
            "bypass": "*.plant.example.com;<local>",
            "hosts": ["a.example.com", "b.plant.example.com"],
        },
        {"proxy": "http=a:80;https=b:81", "hosts": ["broker.example.com"]},
        {"script": script, "hosts": ["broker.example.com", "b.plant.example.com"]},
    ]
    probe = Path(__file__).with_name("windows_proxies.py")
    with machine() as windows:
        answer = windows.run(str(windows_python()), f"Z:{probe}", json.dumps(settings))
    assert answer.exit_code == 0, answer.text
    account, automatic = "Windows' proxy setting of this account", f"Windows' automatic setting ({script})"
    straight = [["", ""]]
    assert json.loads(answer.out) == [
        [[]],
        [[["http://proxy:3128", account]], straight],
        [[["http://b:81", account]]],
        [[["http://proxy.example.com:3128", automatic]], straight],
    ]
