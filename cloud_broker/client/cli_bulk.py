"""``outhaul bulk``: the commands of a file, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from cloud_broker.client.call import tell
from cloud_broker.client.connect import DONE, FAILED, as_json, connected
from cloud_broker.client.errors import WordsError

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.bulk import BulkAnswer

MOST_TOLD: Final = 20  # problems that are told one by one on standard error
TOLD_EVERY: Final = 10_000  # commands


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@click.option(
    "--key-prefix",
    metavar="TEXT",
    help="Command N of the file that has no idempotency key gets TEXT-N: the same file again runs nothing twice.",
)
@as_json
@connected
def bulk(client: Outhaul, file: BinaryIO, key_prefix: str | None, as_json: bool) -> int:
    """Submit many commands: each line of FILE is one, as POST /v1/commands takes it.

    What became of each is one line of JSON on standard output, in the same order: its number, its idempotency key,
    and the command's id and state, or its problem. They are kept by then; `outhaul commands` shows how they end.

    \b
    {"agent": "plant-1", "operation": "create-sales-order", "params": {"customer": "C042"}, "idempotency_key": "o-1"}
    """
    # Imported here: httpx2 loads longer than `--help` should take.
    from cloud_broker.client.requests import encoded, new_key

    prefix = key_prefix if key_prefix is not None else new_key()
    taken = refused = 0
    try:
        for answer in client.submit_many(_commands(file), key_of=lambda number: f"{prefix}-{number}"):
            if answer.command is not None:
                taken += 1
            else:
                refused += 1
                if refused <= MOST_TOLD:
                    tell(f"command {answer.number}: {answer.problem}")
            if not as_json:
                click.echo(encoded(_line(answer)).decode())
            if (taken + refused) % TOLD_EVERY == 0:
                tell(f"{taken + refused:,} commands")
    except BaseException:  # above all Ctrl-C: it says how to go on
        tell(f"{taken:,} commands are kept; the same file again with --key-prefix {prefix} goes on without doubles")
        raise
    if as_json:
        click.echo(encoded({"taken": taken, "refused": refused, "key_prefix": prefix}).decode())
    tell(f"{taken:,} commands are kept" + (f", {refused:,} were refused" if refused else ""))
    return FAILED if refused else DONE


def _commands(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    for number, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            found = json.loads(text, parse_float=Decimal)
        except (ValueError, RecursionError) as exc:
            raise WordsError(f"{file.name}: line {number}: not JSON: {exc}") from exc
        if not isinstance(found, dict):
            raise WordsError(f"{file.name}: line {number}: wants an object, found {text[:20].decode(errors='replace')}")
        yield found


def _line(answer: BulkAnswer) -> dict[str, Any]:
    told: dict[str, Any] = {"number": answer.number, "idempotency_key": answer.key}
    if answer.command is not None:
        return {**told, "id": answer.command.id, "state": answer.command.state}
    return {**told, "problem": answer.problem.document if answer.problem is not None else {}}
