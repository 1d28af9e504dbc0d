"""Clock, folder and account of a machine: what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from agent.check import account, clock, folder

NOW: Final = 1_700_000_000.0
MOUNTS: Final = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /tmp rw,nosuid - tmpfs tmpfs rw
31 22 0:27 / /srv/with\040space rw - cifs //server/share rw
32 22 0:28 / /tmpfoo rw - xfs /dev/vdb rw
33 31 0:29 / /tmp rw - ext4 /dev/vdc rw
broken line
"""


@pytest.mark.parametrize(
    ("moments", "kept", "ok", "code"),
    [
        ({}, True, True, ""),
        ({}, None, True, ""),
        ({}, False, None, "clock.unkept"),
        ({"the certificate came": NOW + 3600}, True, False, "clock.wrong"),
        ({"the certificate came": NOW + 60}, True, True, ""),
        ({"this program was made": NOW - 3600, "the certificate came": NOW + 86_400}, None, False, "clock.wrong"),
    ],
)
def test_a_clock_that_is_before_what_has_happened_is_wrong(
    moments: dict[str, float], kept: bool | None, ok: bool | None, code: str
) -> None:
    found = clock.judge(NOW, moments, kept)
    assert (found.ok, found.code) == (ok, code)
    assert "2023-11-14 22:13:20 UTC" in found.detail


def test_the_system_says_whether_it_keeps_the_clock_or_that_it_does_not_tell() -> None:
    assert clock.synchronised() in (True, False, None)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/var/lib/outhaul-agent", "ext4"),
        ("/tmp/x", "ext4"),  # noqa: S108 - a mount of the text above; nothing is written there
        ("/tmpfoo/x", "xfs"),  # noqa: S108 - the same
        ("/srv/with space/state", "cifs"),
        ("/srv/other", "ext4"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_mount_nearest_to_it(place: str, kind: str) -> None:
    assert folder.mount_of(Path(place), MOUNTS) == kind


@pytest.mark.parametrize(
    ("sddl", "who"),
    [
        ("D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1301bf;;;S-1-5-80-1-2-3-4-5)", []),
        ("D:AI(A;OICIID;FA;;;SY)(A;OICIID;0x1200a9;;;BU)", ["Users"]),
        ("D:(A;;FA;;;WD)(A;;FR;;;S-1-5-11)", ["Authenticated Users", "Everyone"]),
        ("D:(D;;FA;;;WD)(A;;FA;;;BA)", []),
        ("D:(A;;FA;;;S-1-5-21-1-2-3-513)(A;;FA;;;S-1-5-21-1-2-3-1104)", ["Domain Users"]),
    ],
)
def test_an_access_list_tells_whom_of_all_people_it_lets_in(sddl: str, who: list[str]) -> None:
    assert folder.strangers(sddl) == who


@pytest.mark.parametrize(("mode", "who"), [(0o700, ""), (0o750, "its group"), (0o701, "everybody")])
def test_rights_of_others_are_seen(tmp_path: Path, mode: int, who: str) -> None:
    tmp_path.chmod(mode)
    found = folder.others(tmp_path)
    assert found.startswith(who)
    assert bool(found) == bool(who)


def test_who_asks_as_root_becomes_the_account_whose_folder_it_is(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from agent.check import account\n"
        "print(repr(account.take_on_that_of(Path(sys.argv[1]))), os.geteuid(), os.environ['LOGNAME'])"
    )
    environment = {**os.environ, "LOGNAME": "before"}
    mine = os.geteuid() != 0
    if not mine:
        os.chown(tmp_path, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    # Who is not root stays who they are.
    assert done.stdout.split() == (["''", str(os.geteuid()), "before"] if mine else ["''", "65534", "nobody"])


def test_a_folder_of_nobody_is_no_account_to_become(tmp_path: Path) -> None:
    told = account.take_on_that_of(tmp_path / "missing")
    assert told == "" if os.geteuid() != 0 else "does not tell whose it is" in told
