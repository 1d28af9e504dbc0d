"""
The systemd unit of the agent, and the drop-in with the folders of the operator's file; pure text.

Said as systemd 252 knows it (Debian 12), so that newer ones do too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.settings import FileConnection, Settings

STATE_DIR: Final = Path("/var/lib/outhaul-agent")
LOG_DIR: Final = Path("/var/log/outhaul-agent")
CONFIG_DIR: Final = Path("/etc/outhaul-agent")
CONFIG: Final = CONFIG_DIR / "agent.toml"
ACCOUNT: Final = "outhaul-agent"
FOLDERS_DROP_IN: Final = "10-folders.conf"
REMOTE: Final = ("sftp://", "smb://", "ftps://", "ftp://")

_UNIT: Final = """\
[Unit]
Description=Outhaul agent: joins the systems here to cloud software
# Wanted, not needed: without a network the agent dials until there is one.
Wants=network-online.target
After=network-online.target
# It is never given up: the machine may have no one beside it for years.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} run --config {config}
User={account}
Group={account}
# A program that was ended by its watchdog, or whose file is wrong, is started again in ten seconds.
Restart=always
RestartSec=10
# Fed only while the event loop, the journal's writer and the loop that keeps the link move on.
WatchdogSec=30
# A long journal is read first; while what runs comes to its end, the agent asks for more.
TimeoutStartSec=10min
TimeoutStopSec=60
# The agent ends the processes of its drivers itself; what is left then is killed.
KillMode=mixed

StateDirectory=outhaul-agent
StateDirectoryMode=0700
LogsDirectory=outhaul-agent
LogsDirectoryMode=0750
ConfigurationDirectory=outhaul-agent
ConfigurationDirectoryMode=0750
WorkingDirectory={state_dir}
# Dropped files can be read by the group of the folder they are in.
UMask=0027
LimitCORE=0

# What it can't do. Exceptions for odd ODBC drivers: see the guide, "Install on Linux".
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Told to the program instead of killing it: a driver may try, and go on without.
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where an agent is installed.

    Attributes:
        program: what systemd starts, with its words before ``run``.
        config: the operator's file.
        account: it runs under.
    """

    program: tuple[str, ...] = ("/usr/bin/outhaul-agent",)
    config: Path = CONFIG
    account: str = ACCOUNT


def unit(place: Place) -> str:
    """Return the text of ``outhaul-agent.service``."""
    return _UNIT.format(
        program=" ".join(map(_argument, place.program)),
        config=_argument(str(place.config)),
        account=place.account,
        state_dir=STATE_DIR,
    )


def folders(settings: Settings, base_dir: Path) -> tuple[Path, ...]:
    """Return the folders outside of its own that the agent has to write to, as its file has them."""
    roots = [
        connection.root
        for connection in settings.connections.values()
        if isinstance(connection, FileConnection) and not connection.root.startswith(REMOTE)
    ]
    found = {(base_dir / folder).absolute() for folder in (settings.state_dir, *roots)}
    return tuple(sorted(folder for folder in found if STATE_DIR not in (folder, *folder.parents)))


def folders_drop_in(writable: Iterable[Path]) -> str:
    """Return the text of the drop-in that lets the agent write to folders; "" if there are none."""
    # "-": a folder that is not there yet keeps nobody from starting.
    lines = [f"ReadWritePaths={quoted('-' + str(folder))}" for folder in writable]
    if not lines:
        return ""
    return "\n".join(
        (
            "# Written by `outhaul-agent service install` from the file connections of the operator's file; changes",
            "# are lost. What else the agent or a driver has to write to goes into a file of your own beside this one.",
            "[Service]",
            *lines,
            "",
        )
    )


def quoted(word: str) -> str:
    """Return a word as a unit file has it: ``%`` stands for itself, in quotes where they are needed."""
    word = word.replace("%", "%%")
    if any(not (char.isalnum() or char in "-_./:@%+,=$") for char in word):
        escaped = word.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return word


def _argument(word: str) -> str:
    return quoted(word).replace("$", "$$")  # or a variable would be put in its place
