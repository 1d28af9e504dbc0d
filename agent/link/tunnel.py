"""
A way through a proxy: HTTP CONNECT with Basic, SOCKS 5 with or without a user.

CONNECT is spoken here and not by the websocket library, which does not tell whether a name or a port
is the proxy's or the broker's, and prints a traceback when a proxy hangs up.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import socket
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from python_socks import ProxyConnectionError, ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from agent.errors import LinkError, LinkRefused
from agent.link.proxy import Proxy

NEXT_ADDRESS_S: Final = 0.25  # seconds; a host with a dead IPv6 address costs no more than this
MAX_HEAD_BYTES: Final = 65_536  # bytes of a proxy's answer
SHOWN_CHARS: Final = 300  # characters of a foreign answer


@dataclass(frozen=True, slots=True)
class Target:
    """Where the tunnel is to lead."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Answer(asyncio.Protocol):
    """Waits for the head of a proxy's answer."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._got = bytearray()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self.head.done():
            return
        if b"\r\n\r\n" in self._got:
            self.head.set_result(bytes(self._got))
        elif len(self._got) > MAX_HEAD_BYTES:
            self.head.set_exception(ValueError("the answer has no end"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.head.done():
            self.head.set_exception(exc or EOFError("the proxy hung up"))


async def http_tunnel(proxy: Proxy, target: Target) -> asyncio.Transport:
    """
    Return a connection that an HTTP proxy has let through; whoever takes it sets its protocol.

    Raises:
        LinkError: the proxy was not reached, or did not reach the target.
        LinkRefused: it wants another user, or forbids the target.
    """
    parts = urlsplit(proxy.url)
    try:
        transport, answer = await asyncio.get_running_loop().create_connection(
            _Answer,
            parts.hostname or "",
            parts.port or 0,
            ssl=ssl.create_default_context() if parts.scheme == "https" else None,
            happy_eyeballs_delay=NEXT_ADDRESS_S,
        )
    except OSError as exc:
        raise _unreachable(proxy, exc) from exc
    try:
        transport.write(_connect_request(proxy, target))
        status, reason, offers = _read_answer(await answer.head)
        if 200 <= status < 300:
            return transport
        raise _refusal(proxy, target, status, reason, offers)
    except (OSError, EOFError, ValueError, http.client.HTTPException) as exc:
        transport.abort()
        raise LinkError(
            f"the proxy {proxy.shown} did not answer as an HTTP proxy does; is it a SOCKS proxy (socks5h://…)?",
            stage="proxy",
        ) from exc
    except BaseException:
        transport.abort()
        raise


async def socks_tunnel(proxy: Proxy, target: Target) -> socket.socket:
    """
    Return a connected socket that a SOCKS 5 proxy has let through.

    With ``socks5h`` the proxy resolves the target's name, with ``socks5`` this machine does.

    Raises:
        LinkError, LinkRefused: as ``http_tunnel``.
    """
    parts = urlsplit(proxy.url)
    user, password = (unquote(parts.username or ""), unquote(parts.password or "")) if proxy.user else (None, None)
    dialer = SocksProxy(
        ProxyType.SOCKS5, parts.hostname or "", parts.port or 0, user, password, rdns=parts.scheme == "socks5h"
    )
    try:
        # Its own limit of 60 s is off: the whole dial has one.
        return await dialer.connect(target.host, target.port, timeout=3600)
    except ProxyConnectionError as exc:
        raise _unreachable(proxy, exc.__cause__ if isinstance(exc.__cause__, OSError) else exc) from exc
    except socket.gaierror as exc:
        raise LinkError(
            f"the name {target.host} can't be resolved here ({exc.strerror}); "
            "with link.proxy = socks5h://… the proxy resolves it",
            stage="dns",
        ) from exc
    except ProxyError as exc:
        said = _short(exc)
        if "uthentication" in said:
            wants = "wants another user and password" if proxy.user else "wants a user and password"
            raise LinkRefused(
                f"the proxy {proxy.shown} {wants} ({said}): link.proxy = socks5h://USER:{{secret:NAME}}@HOST:PORT",
                stage="proxy",
            ) from exc
        if "not allowed" in said:
            raise _forbidden(proxy, target, said) from exc
        raise LinkError(f"the proxy {proxy.shown} could not reach {target}: {said}", stage="proxy") from exc
    except OSError as exc:
        raise LinkError(f"the proxy {proxy.shown} cut the connection ({_short(exc)})", stage="proxy") from exc


def _connect_request(proxy: Proxy, target: Target) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: outhaul-agent"]
    if proxy.user:
        parts = urlsplit(proxy.url)
        credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode('ascii')}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def _read_answer(head: bytes) -> tuple[int, str, str]:
    """Return status, reason and the offered ways to log in."""
    first, _, rest = head.partition(b"\r\n")
    protocol, _, outcome = first.decode("latin-1").partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError(f"no HTTP answer: {protocol!r}")
    status, _, reason = outcome.partition(" ")
    offers = http.client.parse_headers(io.BytesIO(rest)).get_all("Proxy-Authenticate", [])
    return int(status), reason.strip()[:SHOWN_CHARS], ", ".join(offer.split(" ")[0] for offer in offers)


def _refusal(proxy: Proxy, target: Target, status: int, reason: str, offers: str) -> LinkError:
    # Some, such as tinyproxy, say 401 when the password is wrong.
    if status in (401, 407) and offers and "basic" not in offers.lower():
        return LinkRefused(
            f"the proxy {proxy.shown} wants {offers} (HTTP {status}), and this release knows Basic only; "
            f"have its administrator let this machine reach {target} without, or with Basic",
            stage="proxy",
        )
    if status in (401, 407):
        found = "did not accept the user and password" if proxy.user else "wants a user and password"
        return LinkRefused(
            f"the proxy {proxy.shown} {found} (HTTP {status}): link.proxy = http://USER:{{secret:NAME}}@HOST:PORT",
            stage="proxy",
        )
    if status in (403, 405):
        return _forbidden(proxy, target, f"HTTP {status} {reason}".rstrip())
    return LinkError(
        f"the proxy {proxy.shown} could not reach {target} (HTTP {status} {reason}); does the broker run?",
        stage="proxy",
    )


def _forbidden(proxy: Proxy, target: Target, said: str) -> LinkRefused:
    return LinkRefused(
        f"the proxy {proxy.shown} forbids the way to {target} ({said}); have its administrator allow CONNECT to it",
        stage="proxy",
    )


def _unreachable(proxy: Proxy, exc: OSError) -> LinkError:
    if isinstance(exc, ssl.SSLError):
        what = f"has a certificate that this machine does not trust ({exc.reason or _short(exc)})"
    elif isinstance(exc, socket.gaierror):
        what = f"has a name that can't be resolved ({exc.strerror})"
    else:
        what = f"can't be reached ({_short(exc)})"
    return LinkError(f"the proxy {proxy.shown} {what}; check link.proxy, or the system's proxy setting", stage="proxy")


def _short(exc: BaseException) -> str:
    return (getattr(exc, "strerror", None) or str(exc) or type(exc).__name__)[:SHOWN_CHARS]
