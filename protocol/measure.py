"""
How an agent measures its line to the broker, on a websocket of its own at ``/measure``: what each message means.

The agent asks, the broker answers; the first byte says what it is.

    P and up to 64 bytes           the same comes back
    U and bytes                    counted
    E                              E and the bytes counted so far, eight bytes, big-endian, comes back
    D and a number of four bytes   D and bytes come back, in several messages, until they are so many
    N and a sentence               the broker does not measure now; nothing else follows
"""

from __future__ import annotations

from typing import Final

PATH: Final = "/measure"
PING, UP, END, DOWN, NO = b"P", b"U", b"E", b"D", b"N"
PIECE_BYTES: Final = 65_536  # bytes of one message, as of a chunk of a result
PING_BYTES: Final = 64  # bytes of a ping at most
PINGS: Final = 5  # whose median is the round trip
PROBE_BYTES: Final = 1_048_576  # bytes each way: enough for a line to come up to speed
