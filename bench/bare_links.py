"""
A bare websockets server as agents' links have it: mutual TLS 1.3, uvloop, no compression, no pings; it sends back what
it hears. ``python -m bench.bare_links PORT CERTIFICATE KEY AUTHORITY``.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    """Send back what is heard."""
    async for message in connection:
        await connection.send(message)


async def listen(port: int, certificate: str, key: str, authority: str) -> None:
    """Serve for good."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.num_tickets = 0
    tls.load_verify_locations(authority)
    tls.load_cert_chain(certificate, key)
    async with serve(
        echo, "127.0.0.1", port, ssl=tls, compression=None, ping_interval=None, backlog=2048, open_timeout=60
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(listen(int(sys.argv[1]), *sys.argv[2:5]))
