"""
What is sealed, as bytes; who seals and who opens has the keys and the ciphers.

HPKE (RFC 9180) is base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, without aad.

Parameters are text: ``ohs1.`` and base64url of what HPKE makes of 32 bytes of chance (the call's *secret*) and the
JSON object, sealed to the agent's key; `params_info` says for which tenant, agent, operation and caller's key.

A result is sealed in *parts*: each row set is one, and the end with outputs, error text and warnings is one. A part is

    "ohr1"   u32 attempt   u32 part   80 bytes: 32 bytes of chance, sealed with HPKE to the caller's key (`result_info`)
    frames   u32 length, its highest bit set in the last frame; then AES-256-GCM under `content_key`, without aad
             nonce: u32 part, u56 number of the frame, u8 1 for the last

(big endian). A frame opens only under its own nonce: none can be left out, doubled, moved, put into another part or
taken for the last (STREAM: Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015).
Only who opened the parameters knows the secret in `content_key`: so nobody else can make a result.
"""

from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Callable, Iterator
from typing import Final

from protocol.framing import Buffer

PREFIX: Final = "ohs1."  # of sealed parameters
MAGIC: Final = b"ohr1"  # of a part of a sealed result
FORMAT: Final = "sealed"  # of a row set, in RowSetBegins
KEY_PREFIX: Final = "x25519:"
KEY_BYTES: Final = 32  # of a public key, of a secret, of a content key
WRAPPED_BYTES: Final = 80  # bytes: HPKE's share of a key, the content key, and its tag
TAG_BYTES: Final = 16
NONCE: Final = struct.Struct(">IQ")  # the part; the frame's number above one byte that tells the last
END: Final = 0xFFFF_FFFF  # the part that is no row set
MAX_ATTEMPT: Final = 0xFFFF_FFFF  # brokers that don't lie try some five times
FRAME_BYTES: Final = 65_536  # bytes of rows in one frame at most; a reader waits for all of it before the first
MAX_FRAME_BYTES: Final = 16 * 1_048_576  # bytes of any frame: the names of many columns are in one
HEAD: Final = struct.Struct(f">4sII{WRAPPED_BYTES}s")
LENGTH: Final = struct.Struct(">I")
LAST: Final = 1 << 31  # in the length of a frame

Cipher = Callable[[bytes, Buffer], bytes]  # of a nonce and a text; one that opens raises SealBroken


class SealBroken(ValueError):
    """Something is not what was sealed, or was sealed to another key or for another place; the text says which."""


# --- keys and what they are bound to ----------------------------------------------------------------


def key_text(public: bytes) -> str:
    """Return a public key as text: ``x25519:`` and base64."""
    return KEY_PREFIX + base64.b64encode(public).decode()


def key_bytes(text: str) -> bytes:
    """
    Return the 32 bytes of a public key's text.

    Raises:
        ValueError: it is none.
    """
    if text.startswith(KEY_PREFIX):
        try:
            public = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
        except ValueError:
            public = b""
        if len(public) == KEY_BYTES and key_text(public) == text:
            return public
    raise ValueError(f"wants {KEY_PREFIX} and {KEY_BYTES} bytes in base64, found {text[:80]!r}")


def params_info(tenant: str, agent: str, operation: str, seal_to: str) -> bytes:
    """Return what sealed parameters are bound to; ``seal_to`` is where the result goes, so none can redirect it."""
    return _bound(b"outhaul params 1", tenant, agent, operation, seal_to)


def result_info(tenant: str, agent: str, command_id: str, epoch: int) -> bytes:
    """Return what a sealed result is bound to."""
    return _bound(b"outhaul result 1", tenant, agent, command_id, str(epoch))


def _bound(what: bytes, *facts: str) -> bytes:
    texts = [fact.encode() for fact in facts]
    # Each with its length: otherwise two lists of facts could be the same bytes.
    return what + b"".join(LENGTH.pack(len(text)) + text for text in texts)


def content_key(chance: bytes, secret: bytes) -> bytes:
    """
    Return the key of a result's frames; unknown to anybody who lacks one of the two.

    Args:
        chance: what HPKE carried to the caller.
        secret: of the call; empty where its parameters were not sealed.

    Source:
        HKDF-Extract, RFC 5869, section 2.2.
    """
    return hmac.digest(secret, chance, "sha256")


# --- parameters -------------------------------------------------------------------------------------


def params_text(sealed: bytes) -> str:
    """Return sealed parameters as they stand in a request."""
    return PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def params_bytes(text: str) -> bytes:
    """
    Return what HPKE made of the parameters.

    Raises:
        ValueError: the text is no such thing.
    """
    body = text.removeprefix(PREFIX)
    try:
        sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError:
        sealed = b""
    # One text for one thing: what is signed and compared is the text.
    if len(sealed) < 2 * KEY_BYTES + TAG_BYTES or params_text(sealed) != text:
        raise ValueError(f"wants {PREFIX} and sealed parameters in base64url, found {text[:20]!r}")
    return sealed


def with_secret(secret: bytes, params: bytes) -> bytes:
    """Return what is sealed to the agent."""
    return secret + params


def without_secret(opened: bytes) -> tuple[bytes, bytes]:
    """Return the secret of a call and its parameters."""
    return opened[:KEY_BYTES], opened[KEY_BYTES:]


# --- results ----------------------------------------------------------------------------------------


def head(epoch: int, part: int, wrapped: bytes) -> bytes:
    """Return the first bytes of a part."""
    return HEAD.pack(MAGIC, epoch, part, wrapped)


def nonce(part: int, number: int, last: bool) -> bytes:
    """Return the nonce of a frame; no two frames of an attempt have the same."""
    return NONCE.pack(part, number << 8 | last)


class Sealer:
    """Seals the frames of one part in their order."""

    def __init__(self, encrypt: Cipher, part: int) -> None:
        self._encrypt = encrypt
        self._part = part
        self._number = 0

    def frame(self, data: Buffer, *, last: bool = False) -> bytes:
        """Return one frame."""
        sealed = self._encrypt(nonce(self._part, self._number, last), data)
        self._number += 1
        return LENGTH.pack(len(sealed) | LAST * last) + sealed

    def frames(self, data: Buffer) -> bytes:
        """Return as many frames as ``data`` needs; none is the last."""
        view = memoryview(data)
        return b"".join([self.frame(view[at : at + FRAME_BYTES]) for at in range(0, len(view), FRAME_BYTES)])


class Opener:
    """
    Opens one part, piece by piece as it comes, in the memory of one frame.

    Attributes:
        epoch: of the attempt that it says it is of, once its head is there; 0 before.
    """

    def __init__(self, part: int, unwrap: Callable[[int, bytes], Cipher]) -> None:
        """
        Args:
            part: which one it must be.
            unwrap: returns what opens the frames, of the attempt and the wrapped key in the head; raises SealBroken.
        """
        self.epoch = 0
        self._part = part
        self._unwrap = unwrap
        self._decrypt: Cipher | None = None
        self._number = 0
        self._ended = False
        self._rest = bytearray()

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """
        Take some bytes and yield what is in the frames that are whole now.

        Raises:
            SealBroken: this is not what the agent sealed.
        """
        self._rest += data
        at = 0
        try:
            if self._decrypt is None:
                if len(self._rest) < HEAD.size:
                    return
                self._decrypt = self._begun(bytes(self._rest[: HEAD.size]))
                at = HEAD.size
            while len(self._rest) - at >= LENGTH.size:
                length = LENGTH.unpack_from(self._rest, at)[0]
                size, last = length & ~LAST, length >= LAST
                if not TAG_BYTES <= size <= MAX_FRAME_BYTES:
                    raise SealBroken(f"a frame of {size} bytes")
                if self._ended:
                    raise SealBroken("something follows after its end")
                if len(self._rest) - at - LENGTH.size < size:
                    return
                at += LENGTH.size + size
                frame = bytes(self._rest[at - size : at])
                opened = self._decrypt(nonce(self._part, self._number, last), frame)
                self._number += 1
                self._ended = last
                yield opened
        finally:
            del self._rest[:at]

    def close(self) -> None:
        """
        Say that nothing more comes.

        Raises:
            SealBroken: the end of it is missing.
        """
        if not self._ended or self._rest:
            raise SealBroken("its end is missing" if not self._ended else "something follows after its end")

    def _begun(self, data: bytes) -> Cipher:
        magic, self.epoch, part, wrapped = HEAD.unpack(data)
        if magic != MAGIC:
            raise SealBroken("it is not sealed, or by a later release")
        if part != self._part:
            raise SealBroken(f"it is {_name(part)}, where {_name(self._part)} was wanted")
        return self._unwrap(self.epoch, wrapped)


def _name(part: int) -> str:
    return "the end" if part == END else f"row set {part}"
