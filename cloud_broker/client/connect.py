"""What every word of ``outhaul`` that asks the broker has in common: its client, its options, its exit codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import click

from cloud_broker.client import profile

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul

P = ParamSpec("P")

DONE: Final = 0
FAILED: Final = 1
WORDS_WRONG: Final = 2
NOT_REACHABLE: Final = 3
NOT_ALLOWED: Final = 4

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|min|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
output_format = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "ndjson", "json", "arrow"]),
    default="table",
    show_default=True,
    help="How the result is written.",
)
set_index = click.option(
    "--set", "set_index", type=click.IntRange(min=0), metavar="K", help="Only row set K, counted from 0."
)
max_rows = click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Rows of each row set in a table.",
)


class Duration(click.ParamType[float]):
    """``30s``, ``5min``, ``1h``, ``2d`` or seconds, as float seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read one; fails with a usage error."""
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"wants a duration such as 30s, 5min or 1h, found {value!r}", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


def seconds(text: str) -> float | None:
    """Return the seconds of a duration with its unit; ``None`` if ``text`` is none."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _SECONDS[match[2]] if match is not None and match[2] else None


def connected(function: Callable[Concatenate[Outhaul, P], int]) -> Callable[P, int]:
    """Give a command its client as the first argument, and ``--profile`` and ``--tenant``."""

    @click.option("--profile", "profile_name", metavar="NAME", help="Use what `outhaul login --profile NAME` kept.")
    @click.option("--tenant", metavar="NAME", help="For a key that spans tenants.")
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        # Deferred: see cli.py.
        from cloud_broker.client.api import Outhaul

        name, tenant = kwargs.pop("profile_name", None), kwargs.pop("tenant", None)
        found = profile.find(_text(name), _text(tenant))
        with Outhaul(found.url, found.key, tenant=found.tenant) as client:
            return function(client, *args, **kwargs)

    return update_wrapper(command, function)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
