"""
How the agent logs in at an HTTP proxy: Negotiate, NTLM or Basic, the first of these that the proxy offers.

The library for Negotiate and NTLM is loaded when a proxy asks for it. On Windows it is the system's own: without a
user in the operator's file, the account that runs the agent logs in, and no password stands anywhere.

Source:
    RFC 4559 (Negotiate over HTTP), RFC 7617 (Basic), MS-NTHT (NTLM over HTTP).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent.link.proxy import Proxy

if TYPE_CHECKING:
    from spnego import ContextProxy

# The strongest first. Basic, which gives the password away to whoever listens, only where nothing else is offered.
SCHEMES: Final = ("negotiate", "ntlm", "basic")
NAMES: Final = {"negotiate": "Negotiate", "ntlm": "NTLM", "basic": "Basic"}

Offers = Sequence[tuple[str, str]]
"""Of each ``Proxy-Authenticate``: its scheme, in lower case, and what follows."""


class Login:
    """
    Logs in on one tunnel.

    A user and password are tried once for each dial: directories lock accounts after some wrong ones.

    Attributes:
        scheme: the one in use, as people write it; "" before there is one.
        midway: a step of the proxy's is answered, and what follows belongs to the same connection.
    """

    def __init__(self, proxy: Proxy, *, own_account: bool = sys.platform == "win32") -> None:
        """
        Args:
            own_account: whether the account that runs this program can log in by itself.
        """
        self.scheme = ""
        self.midway = False
        self._proxy = proxy
        self._own_account = own_account
        self._context: ContextProxy | None = None

    def choose(self, offers: Offers) -> str:
        """Return the best of the offered schemes that can be used; "" if there is none."""
        offered = {scheme for scheme, _ in offers}
        able = SCHEMES if self._proxy.user else SCHEMES[:2] if self._own_account else ()
        return next((scheme for scheme in able if scheme in offered), "")

    async def answer(self, offers: Offers) -> str | None:
        """Return the next ``Proxy-Authorization``, or ``None`` where nothing more can be said."""
        if self.scheme:
            challenge = next((rest for scheme, rest in offers if scheme == self.scheme.lower()), "")
            if self._context is None or not challenge or self._context.complete:
                return None
            return await self._step(challenge)
        chosen = self.choose(offers)
        if not chosen:
            return None
        self.scheme = NAMES[chosen]
        if chosen == "basic":
            user, password = self._proxy.login or ("", "")
            return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"
        return await self._step("")

    async def _step(self, challenge: str) -> str | None:
        # In a thread: it may ask the domain's controller, and loads a large library.
        token = await asyncio.to_thread(self._token, challenge)
        if token is None:
            return None
        self.midway = bool(challenge)
        return f"{self.scheme} {base64.b64encode(token).decode('ascii')}"

    def _token(self, challenge: str) -> bytes | None:
        # Imported here: it costs the agent 17 MiB, and most proxies ask for no such thing.
        import spnego
        from spnego.exceptions import SpnegoError

        try:
            if self._context is None:
                user, password = self._proxy.login or (None, None)
                self._context = spnego.client(
                    user, password, hostname=self._proxy.host, service="HTTP", protocol=self.scheme.lower()
                )
            return self._context.step(base64.b64decode(challenge, validate=True) if challenge else None)
        except (SpnegoError, binascii.Error, ValueError):
            return None  # what the proxy said is no step of it; then it has refused
