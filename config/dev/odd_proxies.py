"""
HTTP proxies with the manners of real networks, for the tests' proxy laboratory: each of them is a few lines of asyncio.

    async with OddProxy(login="NTLM", accounts={"CORP\\plant": "s3cret"}, hangs_up_after_407=True) as proxy:
        ...                                   # dial through proxy.url
        assert proxy.tunnels == 1
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from config.dev.databases import HOST

if TYPE_CHECKING:
    from spnego import ContextProxy

PAGE: Final = b"<html><head><title>Please log in - Guest network</title></head><body>...</body></html>"


@dataclass
class OddProxy:
    """
    One proxy; serves while the block runs.

    Attributes:
        login: schemes that it wants one of, in the order offered: ``Basic``, ``NTLM``, ``Negotiate``, ``Digest``.
        accounts: user, with or without a domain, and password.
        hangs_up_after_407: closes the connection with the first 407, and says so.
        hangs_up_midway: closes it in the middle of a login.
        silent_about_it: says that it keeps a connection that it closes.
        page_407: body of a 407.
        chunked: sends the body of a 407 in chunks.
        answer: said to every CONNECT in place of a tunnel.
        splits: sends the head of an answer byte by byte.
        idle_s: a tunnel without a byte for so long is cut.
        inspects: TLS to show to clients in place of the broker's: it opens TLS and looks in.
        tls: speaks TLS itself.
        host: where it listens.
        tunnels: how many it has opened.
        seen: the first line and the scheme of login of each request.
        cut_idle: how many it cut for being idle.
        connections: how many came.
    """

    login: Sequence[str] = ()
    accounts: Mapping[str, str] = field(default_factory=dict)
    hangs_up_after_407: bool = False
    hangs_up_midway: bool = False
    silent_about_it: bool = False
    page_407: bytes = b"<html>407</html>"
    chunked: bool = False
    answer: bytes = b""
    splits: bool = False
    idle_s: float | None = None
    inspects: ssl.SSLContext | None = None
    tls: ssl.SSLContext | None = None
    host: str = HOST
    tunnels: int = 0
    cut_idle: int = 0
    connections: int = 0
    seen: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """``host:port``."""
        port = self._server.sockets[0].getsockname()[1]
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def url(self) -> str:
        """Without a user."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls)
        self._tasks: set[asyncio.Task[None]] = set()
        self._give_passwords()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._users.cleanup()
        os.environ.pop("NTLM_USER_FILE", None)

    def _give_passwords(self) -> None:
        """Tell the library for NTLM, which looks for them in a file that the environment names."""
        self._users = tempfile.TemporaryDirectory()
        named = [(user.rpartition("\\"), password) for user, password in self.accounts.items()]
        path = Path(self._users.name, "users")
        path.write_text("".join(f"{domain}:{name}:{password}\n" for (domain, _, name), password in named))
        os.environ["NTLM_USER_FILE"] = str(path)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            try:
                await self._requests(reader, writer)
            finally:
                writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guard = _Guard(self.login, self.accounts)
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            said = fields.get("proxy-authorization", "")
            self.seen.append(f"{lines[0].split(' HTTP')[0]} {said.split(' ')[0]}".rstrip())
            challenges = await asyncio.to_thread(guard.challenges, said)
            if challenges is None:
                break
            closes = self.hangs_up_midway if said else self.hangs_up_after_407
            await self._refuse(writer, challenges, closes)
            if closes:
                return
        if self.answer:
            await self._say(writer, self.answer)
            return
        await self._tunnel(lines[0].split(" ")[1], reader, writer)

    async def _refuse(self, writer: asyncio.StreamWriter, challenges: Sequence[str], closes: bool) -> None:
        head = ["HTTP/1.1 407 Proxy Authentication Required", f"Date: {formatdate(usegmt=True)}"]
        head += [f"Proxy-Authenticate: {challenge}" for challenge in challenges]
        head.append("Content-Type: text/html")
        if closes and not self.silent_about_it:
            head.append("Proxy-Connection: close")
        if self.chunked:
            head.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(self.page_407), self.page_407)
        else:
            head.append(f"Content-Length: {len(self.page_407)}")
            body = self.page_407
        await self._say(writer, "\r\n".join([*head, "", ""]).encode() + body)

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for piece in [data[at : at + 1] for at in range(len(data))] if self.splits else [data]:
            writer.write(piece)
            await writer.drain()
            if self.splits:
                await asyncio.sleep(0)  # so that each byte is a packet of its own

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(
            host.strip("[]"), int(port), ssl=_anybody() if self.inspects else None
        )
        self.tunnels += 1
        await self._say(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            if self.inspects is not None:
                await writer.start_tls(self.inspects)
            life = _Life(self.idle_s)
            async with asyncio.TaskGroup() as both:
                both.create_task(life.pump(reader, far_writer))
                both.create_task(life.pump(far_reader, writer))
        except* (OSError, EOFError, TimeoutError) as group:
            self.cut_idle += group.subgroup(TimeoutError) is not None
        finally:
            far_writer.close()


class _Life:
    """The two directions of a tunnel: a byte in either keeps both alive."""

    def __init__(self, idle_s: float | None) -> None:
        self._idle_s = idle_s
        self._last = asyncio.get_running_loop().time()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            until = None if self._idle_s is None else self._last + self._idle_s
            try:
                async with asyncio.timeout_at(until):
                    data = await reader.read(65_536)
            except TimeoutError:
                if self._idle_s is not None and loop.time() < self._last + self._idle_s:
                    continue  # the other direction had something to say
                raise
            self._last = loop.time()
            if not data:
                raise EOFError
            writer.write(data)
            await writer.drain()


class _Guard:
    """Lets one connection pass, once it has logged in."""

    def __init__(self, schemes: Sequence[str], accounts: Mapping[str, str]) -> None:
        self._schemes = schemes
        self._accounts = accounts
        self._context: ContextProxy | None = None

    def challenges(self, said: str) -> list[str] | None:
        """Return what a 407 offers, or ``None`` if the way is free."""
        if not self._schemes:
            return None
        scheme, _, word = said.partition(" ")
        if scheme not in self._schemes:
            return list(self._schemes)
        if scheme == "Basic":
            user, _, password = base64.b64decode(word).decode().partition(":")
            return None if self._accounts.get(user) == password else list(self._schemes)
        return self._step(scheme, base64.b64decode(word))

    def _step(self, scheme: str, token: bytes) -> list[str] | None:
        # Imported here: only proxies that want such a login need it.
        import spnego
        from spnego.exceptions import SpnegoError

        try:
            if self._context is None:
                self._context = spnego.server(hostname="proxy", service="HTTP", protocol=scheme.lower())
            answer = self._context.step(token)
        except SpnegoError:
            self._context = None
            return list(self._schemes)
        if self._context.complete:
            return None
        return [f"{scheme} {base64.b64encode(answer or b'').decode()}"]


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
