"""``outhaul-broker migrate`` and ``backup``: the store of an earlier release, and a copy of all that there is."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cloud_broker import backup as copies
from cloud_broker.audit.start_note import migrated
from cloud_broker.audit.trail import BROKER, Act, operator
from cloud_broker.cli_options import Failure, Out, in_store, with_settings
from cloud_broker.settings import Settings
from cloud_broker.store.open import migration


@click.command()
@click.option("--show", is_flag=True, help="Only tell what would be done.")
@with_settings
def migrate(settings: Settings, out: Out, show: bool) -> None:
    """Bring the store of an earlier release forward; a copy as it was is kept beside it.

    `outhaul-broker serve` does the same when it starts. Stop the broker of the earlier release first.
    """
    if not settings.store_file.exists():
        raise Failure(f"{settings.data_dir}: no broker was set up here; run `outhaul-broker init` first")
    found = migration(settings, do=not show)
    if found is None:
        out.facts({"migrated": False, "steps": []}, f"{settings.store_file} is of this release's schema already.")
        return
    if not show:
        in_store(settings, lambda store: store.note(migrated(found, operator(), time.time())))
    document = {"migrated": not show, "from": found.found, "to": found.wanted, "steps": found.steps}
    done = "would be brought" if show else "was brought"
    lines = [f"{settings.store_file} {done} from schema {found.found} to {found.wanted}:"]
    lines += [f"  {step}" for step in found.steps]
    lines.append(f"A copy as it {'is' if show else 'was'}: {found.copy}")
    out.facts(document | {"copy": str(found.copy)}, "\n".join(lines))


@click.command()
@click.argument("to", type=click.Path(path_type=Path))
@with_settings
def backup(settings: Settings, out: Out, to: Path) -> None:
    """Copy all that the broker keeps to the new folder TO, also while it serves.

    It holds the authority's keys: keep it as safe as the broker itself. To restore it, stop the broker, put the folder
    in the place of its data_dir, and start it.
    """
    if not settings.store_file.exists():
        raise Failure(f"{settings.data_dir}: no broker was set up here; run `outhaul-broker init` first")
    made = copies.make(settings, to)
    act = Act(BROKER, operator(), "backup_made", "", time.time(), detail={"folder": str(made.folder)})
    in_store(settings, lambda store: store.note(act))
    document = {"folder": str(made.folder), "files": made.files, "bytes": made.size}
    out.facts(document, f"{made.folder}: {made.files} files, {made.size / 1_048_576:.1f} MiB.")
