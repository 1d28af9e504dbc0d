"""``outhaul-agent upgrade``: another release in the place of this one, and back where it doesn't come up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent import RELEASE
from agent.cli_options import config_option, json_option, show
from agent.errors import UpgradeError, UpgradeNotAllowed
from agent.exit_codes import FAILED
from agent.operator_file import find_file

if TYPE_CHECKING:
    from agent.config_file import Loaded
    from agent.upgrade.installation import Installation
    from agent.upgrade.report import Report
    from agent.upgrade.signature import Signature

GRACE_S, STEADY_S = 180, 15
_RELEASE: Final = re.compile(r"\d+\.\d+\.\d+")


@click.command()
@click.argument("package", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--status", "only_status", is_flag=True, help="Only tell what became of the last one.")
@click.option("--verify", "only_verify", is_flag=True, help="Only tell who signed PACKAGE, and what it is.")
@click.option(
    "--back",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PACKAGE",
    help="The package of the release that runs, for the way back, where it is not kept here.",
)
@click.option("--allow-downgrade", is_flag=True, help="Also install an earlier release than this one.")
@click.option(
    "--grace",
    type=click.IntRange(1, 86_400),
    default=GRACE_S,
    show_default=True,
    metavar="S",
    help="Seconds that it has to come up.",
)
@click.option(
    "--steady",
    type=click.IntRange(0, 86_400),
    default=STEADY_S,
    show_default=True,
    metavar="S",
    help="Seconds that it has to stay up.",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Return at once, as always on Windows; a process of its own installs and watches it.",
)
@config_option
@json_option
def upgrade(
    package: Path | None,
    only_status: bool,
    only_verify: bool,
    back: Path | None,
    allow_downgrade: bool,
    grace: int,
    steady: int,
    no_wait: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Put the release in PACKAGE in the place of this one, and take it back if it does not come up.

    PACKAGE is of the kind that was installed (deb, rpm, MSI or plain archive), with PACKAGE.sig beside it; it needs no
    network. The new program is tried before anything is changed. Then a process of its own watches it: unless the agent
    is linked again within the grace, if it was before, or runs, the release that was there runs again.
    """
    loaded = _load(config)
    if only_status:
        _tell(_report(loaded), as_json)
        return
    if package is None:
        raise click.UsageError("name the PACKAGE; or use --status")
    signed = _verified(package, loaded)
    if only_verify:
        facts = {"package": str(package), "release": signed.release, "system": signed.system, "key": signed.key}
        if as_json:
            show(facts)
        else:
            click.echo(f"{package.name}: release {signed.release} for {signed.system}, signed by {signed.key}")
        return
    _later(signed, allow_downgrade)
    try:
        own = _installed(package, signed, back, loaded)
    except PermissionError as exc:
        raise UpgradeNotAllowed(
            f"{exc.filename}: {exc.strerror}; run this as who installed the agent: root, or an administrator"
        ) from exc
    except OSError as exc:
        raise UpgradeError(f"{exc.filename}: {exc.strerror}; {RELEASE} is as it was") from exc
    _begin(own, signed.release, loaded, grace, steady)
    if no_wait or sys.platform == "win32":
        # On Windows this very program is in the way of the one that is to replace it.
        click.echo(f"{signed.release} will be installed and watched; then: outhaul-agent upgrade --status", err=True)
        return
    _tell(_ended(loaded), as_json)


# --- before: nothing is changed -----------------------------------------------------------------------


def _load(config: Path | None) -> Loaded:
    # Not as the agent's account, as other commands do: that one must not be able to change its own program.
    from agent import config_file

    return config_file.load(find_file(config).absolute())


def _state_dir(loaded: Loaded) -> Path:
    return (loaded.base_dir / loaded.settings.state_dir).absolute()


def _verified(package: Path, loaded: Loaded) -> Signature:
    from agent.upgrade import signature

    if not package.is_file():
        raise click.UsageError(f"{package}: there is no such file")
    found = signature.read(package)
    signature.verify(package, found, loaded.settings.upgrade.trusted_keys)
    return found


def _later(signed: Signature, allow_downgrade: bool) -> None:
    from agent.upgrade.signature import order

    if order(signed.release) == order(RELEASE):
        raise UpgradeError(f"{RELEASE} runs here already")
    if order(signed.release) < order(RELEASE) and not allow_downgrade:
        raise UpgradeNotAllowed(
            f"{signed.release} is earlier than {RELEASE}, which runs here; what was mended since comes back with it. "
            "If you want that: --allow-downgrade"
        )


def _own(loaded: Loaded) -> Installation:
    from agent.upgrade import installation
    from agent.upgrade.side_by_side import own_program

    found = installation.of(own_program(), loaded.path)
    if found is None:
        raise UpgradeError(
            f"nothing was changed: this program ({own_program()}) was put there by nobody that is known here: no "
            f"package, and no folder versions/{RELEASE} beside a link `current`; what put it there has to replace it"
        )
    if not _RELEASE.fullmatch(found.current):
        raise UpgradeError(f"{found.root}: {found.current!r} is there, which should be the name of a release")
    return found


def _installed(package: Path, signed: Signature, back: Path | None, loaded: Loaded) -> Installation:
    """Have all that the upgrade needs, after the new program was tried; raises ``OSError`` too."""
    own = _own(loaded)
    if not package.name.endswith(own.suffixes):
        raise UpgradeError(
            f"{package.name} is genuine, and nothing was changed: the program here came with a package of another "
            f"kind; give one that ends in {' or '.join(own.suffixes)}"
        )
    try:
        _have_a_way_back(own, back, loaded)
        program = own.unpack(_taken(own, package, signed, loaded), signed.release)
        if program is not None:
            _try(program, loaded)
    except (UpgradeError, OSError):
        own.forget(signed.release)
        raise
    finally:
        own.clear()
    return own


def _taken(own: Installation, package: Path, signed: Signature, loaded: Loaded) -> Path:
    from agent.upgrade import signature

    def verify(copy: Path) -> None:
        # Once more, of what nobody else can change between this look and its use.
        signature.verify(copy, signed, loaded.settings.upgrade.trusted_keys)

    return own.take(package, signed.release, verify)


def _have_a_way_back(own: Installation, back: Path | None, loaded: Loaded) -> None:
    """See that the release that runs can be put back; take its package where the operator gives it."""
    if back is not None:
        signed = _verified(back, loaded)
        if signed.release != own.current or not back.name.endswith(own.suffixes):
            raise UpgradeError(
                f"{back.name} is {signed.release}; --back wants the package of {own.current}, which runs"
            )
        _taken(own, back, signed, loaded)
    elif not own.has(own.current):
        raise UpgradeError(
            f"{own.root}: the package of {own.current}, which runs, is not kept here, and without it there is no way "
            "back; nothing was changed. Give it, with its signature beside it: --back PACKAGE. From then on each "
            "upgrade keeps what the next one needs"
        )


def _try(program: Path, loaded: Loaded) -> None:
    """See whether a release can run here at all, and reads the operator's file."""
    from agent.upgrade.environment import clean_environment
    from agent.upgrade.watcher import TRY_S

    for words in (["selfcheck"], ["operations", "--config", str(loaded.path), "--json"]):
        try:
            done = subprocess.run(  # noqa: S603 - a release that a trusted key signed
                [str(program), *words],
                capture_output=True,
                text=True,
                errors="replace",
                env=clean_environment(),
                check=False,
                timeout=TRY_S,
            )
            said, failed = (done.stderr or done.stdout).strip(), done.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as exc:
            said, failed = str(exc), True
        if failed:
            raise UpgradeError(
                f"the new program does not work here, and nothing was changed: {words[0]}: {said[-800:] or 'failed'}"
            )


# --- after: the watcher does the rest -----------------------------------------------------------------


def _begin(own: Installation, release: str, loaded: Loaded, grace: int, steady: int) -> None:
    from agent import status
    from agent.journal import lock
    from agent.upgrade import report, watcher
    from agent.upgrade.package_managers import INSTALL_S
    from agent.upgrade.side_by_side import SideBySide

    state_dir = _state_dir(loaded)
    before = own.current
    running = status.read(state_dir) if lock.held(state_dir) else None
    orders = watcher.Orders(
        root=str(own.root),
        package="" if isinstance(own, SideBySide) else own.suffixes[0],
        before=before,
        after=release,
        config=str(loaded.path),
        state_dir=str(state_dir),
        runs=running is not None,
        linked=running is not None and running.linked_since is not None,
        account=watcher.service_status().account,
        asked_by=os.getpid(),
        grace_s=float(grace),
        steady_s=float(steady),
        until=time.time() + 2 * (INSTALL_S + grace + steady),
    )
    program = own.apart()
    report.write(state_dir, report.Report("installing", before, release, time.time(), until=orders.until))
    watcher.start(program, orders)


def _report(loaded: Loaded) -> Report | None:
    from agent.upgrade import report

    return report.read(_state_dir(loaded))


def _ended(loaded: Loaded) -> Report | None:
    while (found := _report(loaded)) is not None and found.under_way:
        time.sleep(0.2)  # the watcher answers by a file
    return found


def _tell(found: Report | None, as_json: bool) -> None:
    if as_json:
        show(None if found is None else facts(found))
    else:
        click.echo("there was no upgrade yet" if found is None else found.text)
    if found is not None and found.state != "done" and not found.under_way:
        sys.exit(FAILED)


def facts(found: Report) -> dict[str, Any]:
    """Return a report as ``--json`` shows it."""
    at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"state": found.state, "before": found.before, "after": found.after, "at": at, "why": found.why or None}
