"""What a service sends back, read as it comes."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from typing import Final

from agent.connectors.soap.address import place
from agent.connectors.soap.line import READ_BYTES
from agent.errors import ConnectorError, OutcomeUnknown

SHOWN_CHARS: Final = 300  # of a page that is no SOAP; enough to recognise the proxy or error page it is
SHOWN_BYTES: Final = SHOWN_CHARS * 4


class Reply:
    """
    What the service sends back; close it when what is wanted of it was read.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
    """

    def __init__(
        self,
        response: http.client.HTTPResponse,
        url: str,
        lost: Callable[[Exception], ConnectorError],
        stopped: Callable[[], bool],
        let_go: Callable[[bool], None],
    ) -> None:
        """
        Args:
            lost: returns what a line that broke means.
            stopped: whether we cut it ourselves.
            let_go: told when it is closed, and whether the line may be used again.
        """
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._place = place(url)
        self._lost = lost
        self._stopped = stopped
        self._let_go = let_go
        self._start = bytearray()
        self._whole = False

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go(self._whole and not self._response.will_close)
        self._response.close()

    def pieces(self) -> Iterator[bytes]:
        """
        Yield the body as it comes; asked again, the rest of it.

        Raises:
            OutcomeUnknown: it ended too early, not in time, or is compressed.
        """
        response = self._response
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise OutcomeUnknown(f"{self._place} sent a compressed reply, which was not asked for and is not unpacked")
        try:
            while piece := response.read1(READ_BYTES):
                if len(self._start) < SHOWN_BYTES:
                    self._start += piece[:SHOWN_BYTES]
                yield piece
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            if self._stopped():
                # What our own cut ended may look whole: a reply may have no length.
                raise ConnectionAbortedError
        except (OSError, http.client.HTTPException) as exc:
            raise self._lost(exc) from exc
        self._whole = True

    def body(self, most: int) -> bytes:
        """
        Return all of it.

        Raises:
            OutcomeUnknown: as ``pieces``, or it is longer than ``most`` bytes.
        """
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) > most:
                raise self.too_long(most)
        return bytes(found)

    def too_long(self, most: int, of_what: str = "") -> OutcomeUnknown:
        """Return the refusal of a reply that is longer than it may be."""
        return OutcomeUnknown(
            f"{self._place} sent more than {most} bytes{of_what}; raise max_reply_bytes of the "
            "connection if that is right"
        )

    def skim(self) -> None:
        """Read as much as ``shown`` tells; raises as ``pieces``."""
        for _ in self.pieces():
            if len(self._start) >= SHOWN_BYTES:
                return

    def shown(self) -> str:
        """Return the start of the body on one line, for an error; only what was read is known."""
        return shown(bytes(self._start))


def shown(body: bytes) -> str:
    """Return the start of a body on one line, for an error."""
    text = " ".join(body[:SHOWN_BYTES].decode("utf-8", "replace").split())
    return text[:SHOWN_CHARS] + ("…" if len(text) > SHOWN_CHARS else "")
