"""Characters and bytes: which codecs there are, what can't be encoded, and lines as they are read."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final, Protocol

from agent.errors import ContentInvalid

READ_BYTES: Final = 65_536
MAX_LINE_CHARS: Final = 4_194_304  # a file without line ends must not fill the memory
NEXT_LINE: Final = "\x85"  # the line end of EBCDIC systems, byte 0x15


class Readable(Protocol):
    """Bytes that are read in pieces."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        ...


def codec_name(encoding: str) -> str:
    """
    Return Python's own name of a text codec.

    Raises:
        LookupError: there is no such codec, or it is none for text.
    """
    name = codecs.lookup(encoding).name
    "".encode(encoding)  # raises LookupError for codecs that are not for text, such as base64
    return name


def is_ebcdic(encoding: str) -> bool:
    """Whether ``encoding`` is one of the mainframe's."""
    return " ".encode(encoding) == b"\x40"


def not_encodable(text: str, encoding: str) -> str | None:
    """Return which character of ``text`` has no place in ``encoding``, in words; ``None`` if all have one."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError as exc:
        character = text[exc.start]
        return (
            f"character {character!r} (U+{ord(character):04X}) at position {exc.start + 1} "
            f"can't be written in {encoding}"
        )
    return None


def lines(source: Readable, encoding: str) -> Iterator[str]:
    """
    Yield the lines of ``source`` with their ends, decoded strictly.

    A byte order mark at the start of UTF-8 is dropped. In EBCDIC the character NEL ends a line
    as LF does, and comes as LF.

    Raises:
        ContentInvalid: bytes that are none of ``encoding``, or a line beyond ``MAX_LINE_CHARS``; names the line.
    """
    decoder = codecs.getincrementaldecoder(_reading(encoding))("strict")
    ebcdic = is_ebcdic(encoding)
    pending, number = "", 0
    while True:
        chunk = source.read(READ_BYTES)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as exc:
            # The good part of this chunk tells on which line the bad byte stands.
            good = exc.object[: exc.start].decode(encoding, "replace")
            line = number + (pending + _with_lf(good, ebcdic)).count("\n") + 1
            raise ContentInvalid(
                f"line {line}: byte 0x{exc.object[exc.start]:02X} is not {encoding}; is the operation's encoding right?"
            ) from exc
        except UnicodeError as exc:  # such as UTF-16 without a byte order mark
            raise ContentInvalid(f"line {number + 1}: {exc}; is the operation's encoding right?") from exc
        found = (pending + _with_lf(text, ebcdic)).split("\n")
        pending = found.pop()
        for line_text in found:
            yield line_text + "\n"
        number += len(found)
        if len(pending) > MAX_LINE_CHARS:
            raise ContentInvalid(f"line {number + 1} is longer than {MAX_LINE_CHARS} characters")
        if not chunk:
            break
    if pending:
        yield pending


def decoded(data: bytes, encoding: str) -> str:
    """
    Return the text of a whole file.

    Raises:
        ContentInvalid: bytes that are none of ``encoding``; names the line.
    """
    try:
        return data.decode(_reading(encoding))
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].decode(encoding, "replace").count("\n") + 1
        raise ContentInvalid(
            f"line {line}: byte 0x{exc.object[exc.start]:02X} is not {encoding}; is the operation's encoding right?"
        ) from exc
    except UnicodeError as exc:
        raise ContentInvalid(f"{exc}; is the operation's encoding right?") from exc


def _reading(encoding: str) -> str:
    # Windows programs put a byte order mark before UTF-8; it would end up in the first column's name.
    return "utf-8-sig" if codec_name(encoding) == "utf-8" else encoding


def _with_lf(text: str, ebcdic: bool) -> str:
    return text.replace(NEXT_LINE, "\n") if ebcdic else text
