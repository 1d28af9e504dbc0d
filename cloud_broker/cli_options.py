"""What the subcommands of ``outhaul-broker`` share: the operator's words, the printing of facts, exit codes."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from cloud_broker.errors import StoreUnavailable
from cloud_broker.identity.authorities import WrongPhase
from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.settings import ConfigError, Settings, find_file, load
from cloud_broker.store.base import Store
from cloud_broker.store.open import open_store
from cloud_broker.tenants import NAME

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SECONDS: Final = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(click.ClickException):
    """It did not work."""

    exit_code = 1


class WrongWords(Failure):
    """What the operator wrote can't be understood."""

    exit_code = 2


class NotReachable(Failure):
    """The store does not answer."""

    exit_code = 3


class NotAllowed(Failure):
    """The operating system says no."""

    exit_code = 4


class Duration(click.ParamType[float]):
    """``90s``, ``30min``, ``1h``, ``7d`` or seconds, as float seconds."""

    name = "duration"

    def __init__(self, *, none: bool = False) -> None:
        self._none = none  # whether 0 is one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value)
        if match is None or (float(match[1]) == 0 and not self._none):
            self.fail(f"wants a duration such as 90s, 30min, 1h or 7d, found {value!r}", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Name(click.ParamType[str]):
    """The name of a tenant, an agent or a group."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is."""
        if not NAME.match(value):
            self.fail(f"wants 1 to 64 letters, digits, '.', '_' and '-', found {value!r}", param, ctx)
        return str(value)


@dataclass(frozen=True, slots=True)
class Out:
    """How to print facts: for people, or as one JSON document."""

    as_json: bool

    def facts(self, document: Any, text: str) -> None:
        """Print one or the other on stdout."""
        click.echo(json.dumps(document, ensure_ascii=False) if self.as_json else text)

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print rows, in columns for people."""
        if self.as_json:
            self.facts({"items": list(rows), "next": None}, "")
            return
        lines = [list(columns), *([_cell(row[column]) for column in columns] for row in rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        for line in lines:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(value) if isinstance(value, list) else str(value)


def with_settings(command: Command) -> Command:
    """Give a command ``settings`` and ``out`` from ``--config`` and ``--json``."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The broker's file; else $OUTHAUL_BROKER_CONFIG, else ./broker.toml if it is there, else the defaults.",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @functools.wraps(command)
    def wrapped(config: Path | None, as_json: bool, **rest: Any) -> Any:
        try:
            settings = load(find_file(config))
        except ConfigError as exc:
            raise WrongWords(str(exc)) from exc
        with _failures():
            return command(settings=settings, out=Out(as_json), **rest)

    return wrapped  # type: ignore[return-value]  # click calls it with what it parsed, whatever that is


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what can go wrong into a sentence and an exit code."""
    try:
        yield
    except PermissionError as exc:
        raise NotAllowed(f"{exc.filename}: not allowed: {exc.strerror}") from exc
    except StoreUnavailable as exc:
        raise NotReachable(exc.detail) from exc
    except (ConfigError, CertificateInvalid, WrongPhase, OSError) as exc:
        raise Failure(str(exc)) from exc


def in_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do something with the store; a broker may run at the same time."""
    if not settings.store_file.exists():
        raise Failure(f"{settings.data_dir}: no broker was set up here; run `outhaul-broker init` first")

    async def opened() -> T:
        store = open_store(settings)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(opened())


async def known_tenant(store: Store, name: str) -> None:
    """Raise ``Failure`` unless there is such a tenant."""
    if await store.tenant(name) is None:
        names = ", ".join(tenant.name for tenant in await store.tenants()) or "none yet"
        raise Failure(f"there is no tenant {name!r}; there are: {names}")


def plain(view: Any) -> dict[str, Any]:
    """Return a record of the API as it goes into JSON."""
    found: dict[str, Any] = msgspec.to_builtins(view)
    return found
