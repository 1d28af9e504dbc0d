"""
Every number of the protocol, with its unit and its reason.

A side announces those that bind its peer in its greeting (``Limits`` in
``messages.py``), so that a later release can change them without a new version.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1  # of the protocol; the greeting carries a list, so that releases can differ

MAX_COMMAND_BYTES: Final = 1_048_576  # bytes; parameters of one command: more belongs in a blob
MAX_HEADER_BYTES: Final = 1_048_576  # bytes; the largest header is a `holding` of many commands
MAX_MESSAGE_BYTES: Final = 2 * 1_048_576 + 65_536  # bytes; one record of each limit above, and its lengths
MAX_OUTPUT_BYTES: Final = 1_048_576  # bytes; outputs of one command: with BATCH_BYTES and a header they fit a message
MAX_ROW_SETS: Final = 1_000  # of one command; each stands in the header of its Completed
MAX_COLUMN_BYTES: Final = 1_048_576  # bytes; names and types of all columns of one result, which a broker holds
MAX_PROBLEMS: Final = 20  # of one agent, each as long as an error text at most
MAX_WARNINGS: Final = 20  # of one command, each as long as an error text at most
CHUNK_BYTES: Final = 65_536  # bytes; a larger chunk would keep small results waiting on a thin line
BATCH_BYTES: Final = 131_072  # bytes; records written together in one websocket message at most
MAX_CATALOGUE_BYTES: Final = 1_048_576  # bytes; a few thousand operations with their schemas

STREAM_WINDOW_BYTES: Final = 6 * 1_048_576  # bytes per command; 80 ms of round trip at 75 MB/s
SMALL_WINDOW_BYTES: Final = 1_048_576  # bytes per command of an agent that does not say how many it keeps (0.1)
BLOB_WINDOW_BYTES: Final = 2 * 1_048_576  # bytes of a blob that an agent asks for ahead of those it has stored
MAX_FETCHES: Final = 64  # parts of one blob that are asked for and not sent; more is no agent of ours

LINK_WINDOW_BYTES: Final = 8 * 1_048_576  # bytes per link; bounds what one agent can make a broker hold

MAX_UNSENT: Final = 50_000  # records; a peer that asks and reads no answers is cut off before they fill the memory

BEAT_S: Final = 20.0  # seconds; below the 30 to 60 s after which common proxies cut an idle link
MIN_BEAT_S: Final = 0.1  # seconds; a peer that announces a shorter silence gets no storm of beats
BEATS_IN_SILENCE: Final = 2.25  # how often a side beats in the time after which the other gives the link up
SILENCE_S: Final = 45.0  # seconds; two beats and a little: then the peer is gone and the link is closed
GREETING_S: Final = 10.0  # seconds from the open link to the greeting

REMEMBERS: Final = 10_000  # ended commands an agent still knows after it was told to forget them
SENDS_AGAIN: Final = 1_000  # ended commands after which a broker never sends an earlier one again

MAX_RUNNING: Final = 64  # commands at once on one agent
MAX_ERROR_CHARS: Final = 4_000  # characters of a foreign error text; drivers can be chatty
