"""What the commands of ``outhaul-agent`` share: how the operator's file is named, ``--json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from agent.operator_file import DEFAULT_FILE, ENVIRONMENT_KEY

config_option = click.option(
    "--config",
    "config",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The operator's file; default: ${ENVIRONMENT_KEY}, or {DEFAULT_FILE} here, or the system's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def show(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
