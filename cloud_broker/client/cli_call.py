"""``outhaul call``: the words of a command line become a command, and its end an exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloud_broker.client import arguments
from cloud_broker.client.call import (
    Format,
    StillRunning,
    Wishes,
    check_arrow,
    ended,
    follow,
    in_words,
    tell,
    tell_end,
    unfinished_document,
)
from cloud_broker.client.cli_files import check_new, content_file, picked_file, sent, write_content
from cloud_broker.client.cli_sealing import Sealing
from cloud_broker.client.cli_signing import Signing, sign_with, signature_file, signer_name, valid
from cloud_broker.client.connect import (
    DONE,
    FAILED,
    NOT_REACHABLE,
    Duration,
    connected,
    max_rows,
    output_format,
    set_index,
)
from cloud_broker.client.errors import NotReachable, ProblemError, ResultCut, WordsError
from cloud_broker.client.progress import Progress
from cloud_broker.client.records import Command
from protocol.ids import new_id

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul

FIRST_WAIT_S: Final = 1.0  # seconds; most commands end within them, and then one request was enough


@click.command()
@click.argument("words", nargs=-1, metavar="AGENT OPERATION [NAME=VALUE]...")
@click.option("--group", metavar="NAME", help="Any live agent of this group; then AGENT is left out.")
@click.option("--params", metavar="JSON|@FILE|-", help="All parameters as one JSON object; words come over them.")
@click.option("--rows", "rows_file", metavar="@FILE", help="Content of a drop: rows of a .csv or .ndjson file.")
@output_format
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@set_index
@max_rows
@click.option("--wait", "wait_s", type=Duration(), metavar="S", help="Wait so long at most; default: to the end.")
@click.option("--no-wait", is_flag=True, help="Print the command's id and end.")
@click.option("--ttl", "ttl_s", type=Duration(), metavar="TIME", help="Not to be started later than this, such as 1h.")
@click.option("--idempotency-key", metavar="K", help="The same key never has a second effect.")
@click.option("--correlation-id", metavar="C", help="Found again in all logs, here and at the agent.")
@click.option("--ordering-key", metavar="K", help="Commands with the same one run one after the other.")
@click.option("--priority", type=int, metavar="N", help="Higher ones go first.")
@click.option("--seal", is_flag=True, help="Only the agent can read the parameters, only this call the result.")
@click.option(
    "--seal-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what reads the result in this new file; with an idempotency key, use it again. Means --seal.",
)
@click.option(
    "--agent-keys", metavar="KEYS", help="Take no other keys of the agent than these (outhaul-agent identity)."
)
@sign_with
@signer_name
@valid
@signature_file("With --sign-with: keep the signature in this new file, for `outhaul commands verify --signature`.")
@click.option("--operation-version", "version", metavar="V", help="Sign for this version of the operation only.")
@content_file
@picked_file
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the command too.")
@connected
def call(
    client: Outhaul,
    words: tuple[str, ...],
    group: str | None,
    params: str | None,
    rows_file: str | None,
    output_format: Format,
    as_json: bool,
    set_index: int | None,
    max_rows: int,
    wait_s: float | None,
    no_wait: bool,
    ttl_s: float | None,
    idempotency_key: str | None,
    correlation_id: str | None,
    ordering_key: str | None,
    priority: int | None,
    seal: bool,
    key_file: Path | None,
    agent_keys: str | None,
    sign_with: Path | None,
    signer_name: str | None,
    valid_s: float | None,
    signature_file: Path | None,
    version: str | None,
    content_file: Path | None,
    picked_file: str | None,
    cancel_on_interrupt: bool,
) -> int:
    """Run an operation and print its result.

    NAME=VALUE is read as the operation's parameter wants it, NAME:=JSON is JSON as it stands, and NAME=@FILE is
    the content of a file (@- is standard input).

    \b
    outhaul call plant-1 open-invoices customer=C042
    outhaul call plant-1 drop-order order_no=4711 --rows @lines.csv
    outhaul call plant-1 open-invoices --params '{"customer": "C042"}' --format csv > invoices.csv
    outhaul call plant-1 open-invoices customer=C042 --format arrow > invoices.arrow
    outhaul call plant-1 open-invoices customer=C042 --seal
    outhaul call plant-1 drop-image name=disk.img content=@disk.img
    outhaul call plant-1 pick-image -o disk.img
    outhaul call plant-1 create-sales-order --params @order.json --sign-with web-shop.key
    """
    agent, operation, values = _addressed(words, group)
    wishes = Wishes("json" if as_json else output_format, wait_s, set_index, max_rows)
    check_arrow(wishes, sealed=seal or key_file is not None)
    given = arguments.object_of(params, "--params") if params is not None else {}
    if rows_file is not None:
        given["rows"] = arguments.rows_of(rows_file)
    schema = _schema(client, agent, group, operation) if any(_typed(word) for word in values) else None
    given = arguments.parameters(values, schema, given, f"{agent or group} {operation}")
    check_new(content_file, picked_file)
    progress = Progress()
    try:
        given = sent(client, given, progress, sealed=seal or key_file is not None)
    finally:
        progress.stop()
    key = idempotency_key if idempotency_key is not None else new_id("idem", time.time_ns() // 1_000_000, os.urandom)
    sealing = Sealing(seal or key_file is not None, key_file, agent_keys, idempotency_key is not None, no_wait)
    sealed = sealing.call(client, agent, operation, given)
    signing = Signing(sign_with, signer_name, valid_s, signature_file)
    if version is not None and sign_with is None:
        raise WordsError("--operation-version goes with --sign-with KEYFILE")
    signature = signing.signature(
        client, key, ttl_s, agent, operation, given, group=group, sealed=sealed, version=version
    )
    opening = client.unsealed(sealed) if sealed is not None else None
    command: Command | None = None
    try:
        command = client.call(
            agent,
            operation,
            given,
            sealed=sealed,
            group=group,
            wait_s=0.0 if no_wait or wishes.streams else min(FIRST_WAIT_S, FIRST_WAIT_S if wait_s is None else wait_s),
            idempotency_key=key,
            ttl_s=ttl_s,
            correlation_id=correlation_id,
            ordering_key=ordering_key,
            priority=priority,
            signature=signature,
            rows_as="arrow" if wishes.format == "arrow" else "ndjson",
        )
        if no_wait:
            sealing.tell_how_to_read(command.id)
            return _submitted(command, wishes)
        if opening is not None:
            command = opening.opened(command)
        if content_file is not None:
            command = ended(opening or client, command, wait_s, progress)
            return write_content(opening or client, command, content_file, picked_file, progress)
        return tell_end(follow(opening or client, command, wishes, progress, sys.stdout.buffer), progress.seconds)
    except StillRunning as exc:
        progress.stop()
        if wishes.format == "json":
            unfinished_document(exc.command, sys.stdout.buffer)
        tell(f"not ended yet: {in_words(exc.command)}; look again: outhaul commands {exc.command.id}")
        sealing.tell_how_to_read(exc.command.id)
        return FAILED
    except KeyboardInterrupt:
        progress.stop()
        code = _interrupted(client, command, key, cancel_on_interrupt)
        sealing.tell_how_to_read(command.id if command is not None else None)
        return code
    except NotReachable as exc:
        progress.stop()
        tell(f"error: {exc}")
        sealing.tell_how_to_read(command.id if command is not None else None)
        if command is not None:
            tell(f"the command goes on without us: outhaul commands {command.id}")
        return NOT_REACHABLE
    except ResultCut as exc:
        progress.stop()
        tell(f"the rows are not whole: {exc}")
        if command is not None:
            tell(f"to get them again: outhaul commands rows {command.id}")
            sealing.tell_how_to_read(command.id)
        return FAILED
    finally:
        progress.stop()


def _addressed(words: Sequence[str], group: str | None) -> tuple[str | None, str, Sequence[str]]:
    wanted = ["OPERATION"] if group is not None else ["AGENT", "OPERATION"]
    if len(words) < len(wanted) or any("=" in word for word in words[: len(wanted)]):
        raise click.UsageError(f"wants {' '.join(wanted)} [NAME=VALUE]..., found {' '.join(words) or 'nothing'}")
    if group is not None:
        return None, words[0], words[1:]
    return words[0], words[1], words[2:]


def _typed(word: str) -> bool:
    name, sign, _ = word.partition("=")
    return bool(sign) and not name.endswith(":")


def _schema(client: Outhaul, agent: str | None, group: str | None, operation: str) -> Mapping[str, Any] | None:
    """Return the schema of an operation's parameters; ``None`` where this key may not see it, or there is none."""
    try:
        names = [agent] if agent is not None else [found.name for found in client.agents() if found.group == group]
        for name in names:
            for found in client.operations(name):
                if found.name == operation:
                    return found.params
    except ProblemError as exc:
        # The submission's own answer says better what is wrong with these words.
        if exc.status not in (403, 404):
            raise
        if exc.status == 403:
            tell("this key may not read the parameters' types (agents:read): every value is sent as text")
    return None


def _submitted(command: Command, wishes: Wishes) -> int:
    if wishes.format == "json":
        unfinished_document(command, sys.stdout.buffer)
    else:
        click.echo(command.id)
    tell(f"{in_words(command)}; look again: outhaul commands {command.id}")
    return DONE


def _interrupted(client: Outhaul, command: Command | None, key: str, cancel: bool) -> int:
    if command is None:
        tell(f"interrupted; the command may have been taken: the same call with --idempotency-key {key} finds it")
        return FAILED
    if cancel:
        state = client.cancel(command.id).state
        tell(f"interrupted, and asked to cancel: {state.replace('_', ' ')}; look again: outhaul commands {command.id}")
    else:
        tell(f"interrupted; the command goes on: outhaul commands {command.id} shows it")
    return FAILED
