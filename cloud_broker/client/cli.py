"""
The ``outhaul`` command: the caller's side.

httpx2 and rich are loaded where they are needed, not here: together they take longer to load than
everything else, and ``--help``, a wrong word or a CSV stream need one or none of them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Final

import click

from cloud_broker.client import arguments, profile
from cloud_broker.client.call import tell
from cloud_broker.client.cli_approvals import approvals, tell_waiting
from cloud_broker.client.cli_audit import audit
from cloud_broker.client.cli_bulk import bulk
from cloud_broker.client.cli_call import call
from cloud_broker.client.cli_dead_letters import dead_letters, replay, resolve
from cloud_broker.client.cli_shows import agents, commands, operations
from cloud_broker.client.cli_signing import keygen, verify
from cloud_broker.client.connect import DONE, FAILED, NOT_ALLOWED, NOT_REACHABLE, WORDS_WRONG, as_json
from cloud_broker.client.errors import (
    NotReachable,
    OuthaulError,
    ProblemError,
    ProfileError,
    SecondPersonWanted,
    UnknownAnswer,
    WordsError,
)

_STATUS_CODES: Final = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    **dict.fromkeys((400, 404, 405, 406, 413, 415, 422), WORDS_WRONG),
    **dict.fromkeys((502, 503, 504), NOT_REACHABLE),
}
_ERROR_CODES: Final[dict[type[OuthaulError], int]] = {
    WordsError: WORDS_WRONG,
    ProfileError: WORDS_WRONG,
    NotReachable: NOT_REACHABLE,
    UnknownAnswer: NOT_REACHABLE,
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Run what the operators of remote systems allow, and get the results.

    Exit codes: 0 done, 1 the thing failed, 2 the words are wrong, 3 not reachable, 4 not allowed.
    """


@cli.command()
@as_json
def version(as_json: bool) -> int:
    """Print the version."""
    number = metadata.version("outhaul")
    click.echo(f'{{"version": "{number}"}}' if as_json else f"outhaul {number}")
    return DONE


@cli.command()
@click.option("--url", metavar="URL", help="The broker's address; asked for if it is left out.")
@click.option("--tenant", metavar="NAME", help="For a key that spans tenants.")
@click.option("--profile", "profile_name", metavar="NAME", help="Keep it under this name, beside others.")
def login(url: str | None, tenant: str | None, profile_name: str | None) -> int:
    """Keep the broker's address and your key for later commands.

    The key is asked for, or read from standard input; it is never a word of the command line. It is tried
    before it is kept, in a file that only you may read.
    """
    # Deferred: see the top of this file.
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.connection import checked_key, checked_url

    url = checked_url(url if url is not None else _asked("Address of the broker", hidden=False))
    found = profile.Profile(url, checked_key(_asked("Key", hidden=True)), tenant)
    with Outhaul(found.url, found.key, tenant=found.tenant) as client:
        try:
            client.agents()
        except ProblemError as exc:
            # Known, but not for this: still a good key.
            if exc.status != 403 or exc.code != "forbidden":
                raise
    tell(f"kept in {profile.keep(profile_name, found)}")
    return DONE


def _asked(what: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=hidden, err=True))
    line = sys.stdin.readline().strip()
    if not line:
        raise WordsError(f"{what}: wants a line on standard input, found none")
    return line


for _command in (audit, bulk, call, commands, dead_letters, replay, resolve, approvals, agents, operations, keygen):
    cli.add_command(_command)
commands.add_command(verify)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if not stream.isatty() and hasattr(stream, "reconfigure"):
            # Windows gives files and pipes an encoding of its own, which can't hold every text of an ERP.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except OSError as exc:
        # Windows says "invalid argument" of a pipe whose reader left.
        if os.name == "nt" and exc.errno == errno.EINVAL:
            return _reader_left()
        tell(f"error: {exc.strerror or exc}")
        return FAILED
    return code


def _run(args: Sequence[str]) -> int:
    try:
        return int(cli.main(args=list(args), prog_name="outhaul", standalone_mode=False) or DONE)
    except click.Abort:
        tell("aborted")
        return FAILED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except KeyboardInterrupt:
        tell("interrupted")
        return FAILED
    except SecondPersonWanted as exc:
        return tell_waiting(exc.approval, "--json" in args)
    except ProblemError as exc:
        return _tell_problem(exc, args)
    except OuthaulError as exc:
        tell(f"error: {exc}")
        return _ERROR_CODES.get(type(exc), FAILED)


def _tell_problem(exc: ProblemError, words: Sequence[str]) -> int:
    if exc.errors:
        tell(f"error: {exc.title or 'the parameters do not fit'}")
        for entry in exc.errors:
            if isinstance(entry, dict):
                tell(f"  {entry.get('name') or 'parameters'}: {entry.get('reason') or entry.get('message') or ''}")
            else:
                tell(f"  {entry}")
    else:
        tell(f"error: {exc}{f' ({exc.code})' if exc.code and exc.code != 'blank' else ''}")
    near = _meant(words, exc)
    if near is not None:
        tell(f"Did you mean {near}?")
    return _STATUS_CODES.get(exc.status, FAILED)


def _meant(words: Sequence[str], exc: ProblemError) -> str | None:
    """Return the name that exists and is nearest to a word that was given, where the broker says which exist."""
    known = [name for key in ("agents", "operations") for name in exc.document.get(key, ()) if isinstance(name, str)]
    for word in words:
        near = arguments.nearest(word, known) if word not in known else None
        if near is not None:
            return near
    return None


def _reader_left() -> int:
    # Python flushes standard output once more at its end, and would complain.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
