"""The unit and its drop-in as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import config_file
from agent.service.unit import Place, folders, folders_drop_in, quoted, unit

FILE = """
agent     = "plant-1"
state_dir = "{state}"

[connections.in]
type = "file"
root = "inbox"
[connections.out]
type = "file"
root = "/srv/edi/out going"
[connections.probe]
type = "synthetic"
"""


def test_the_service_may_write_to_the_folders_of_its_file_and_to_no_others() -> None:
    settings = config_file.parse(FILE.format(state="/var/lib/outhaul-agent"), "agent.toml")
    found = folders(settings, Path("/opt/outhaul"))
    assert found == (Path("/opt/outhaul/inbox"), Path("/srv/edi/out going"))
    assert [line for line in folders_drop_in(found).splitlines() if not line.startswith("#")] == [
        "[Service]",
        "ReadWritePaths=-/opt/outhaul/inbox",
        'ReadWritePaths="-/srv/edi/out going"',
    ]


def test_a_state_dir_of_the_operator_s_own_can_be_written_too() -> None:
    settings = config_file.parse(FILE.format(state="state"), "agent.toml")
    assert Path("/opt/outhaul/state") in folders(settings, Path("/opt/outhaul"))


def test_without_folders_there_is_no_drop_in() -> None:
    assert folders_drop_in(()) == ""


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/srv/a", "/srv/a"),
        ("/srv/a b", '"/srv/a b"'),
        ("/srv/100%", "/srv/100%%"),
        ('/srv/"a"', '"/srv/\\"a\\""'),
        ("/srv/a\\b", '"/srv/a\\\\b"'),
        ("/srv/$HOME", "/srv/$HOME"),
        ("/srv/é", "/srv/é"),
    ],
)
def test_a_word_means_itself_to_systemd(word: str, written: str) -> None:
    assert quoted(word) == written


def test_what_systemd_starts_is_taken_as_it_is_written() -> None:
    place = Place(("/opt/my agent/$bin/outhaul-agent",), Path("/etc/50%/agent.toml"), "svc")
    lines = unit(place).splitlines()
    assert 'ExecStart="/opt/my agent/$$bin/outhaul-agent" run --config /etc/50%%/agent.toml' in lines
    assert {"User=svc", "Group=svc"} <= set(lines)
