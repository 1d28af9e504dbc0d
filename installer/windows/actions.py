"""
What the package does beside copying files, in which order: rows of its tables, as ``wixl`` has no words for most.

What changes the machine runs as the system ("deferred"), and is what the program's own `service setup` does. For each
such step stands its way back before it, which Windows Installer takes where a later step fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.service.windows_names import SERVICE

# The numbers of [MS Learn] "Summary List of All Custom Action Types" and "Custom Action In-Script Execution Options".
_LIBRARY, _PROGRAM, _PROPERTY = 0x01, 0x12, 0x33
_GO_ON, _AS_SYSTEM, _HIDDEN = 0x40, 0x0800, 0x2000  # go on: also where it fails
_DEFERRED = 0x0400 | _AS_SYSTEM
_BACK = 0x0100 | _DEFERRED | _GO_ON

FRESH: Final = "NOT Installed AND NOT WIX_UPGRADE_DETECTED"
REMOVAL: Final = 'REMOVE="ALL" AND NOT UPGRADINGPRODUCTCODE'
TOKEN_GIVEN: Final = "TOKEN AND NOT REMOVE"  # noqa: S105 - a condition


@dataclass(frozen=True, slots=True)
class Action:
    """
    One step.

    Attributes:
        source: key of what runs, or the property that is set.
        target: entry point, words, or value.
        when: condition.
        at: its place; 1500 begins the transaction, 3500 removes files, 4000 copies them, 6600 ends it.
    """

    name: str
    kind: int
    source: str
    target: str
    when: str
    at: int


# A bar ends each value: a backslash before the closing quote would hide it.
_SETUP: Final = 'service setup install --configdir "[CONFIGDIR]|" --tokenfile "[TOKENFILE]|" --account "[ACCOUNT]|"'

ACTIONS: Final = (
    Action("SetInstallDir", _PROPERTY, "INSTALLDIR", "[INSTALLDIRKEPT]", "INSTALLDIRKEPT AND NOT INSTALLDIR", 901),
    # The release before is stopped here too, as it is removed within the transaction, at 1501.
    Action("StartServiceAgain", _PROGRAM | _BACK, "Program", "service setup start", "Installed", 1610),
    Action("StopService", _PROGRAM | _DEFERRED | _GO_ON, "Program", "service setup stop", "Installed", 1611),
    # A program that does not work can be removed too: what it leaves, the next two lines of STANDARD_WHEN take away.
    Action("RemoveService", _PROGRAM | _DEFERRED | _GO_ON, "Program", "service setup remove", REMOVAL, 1612),
    # A deferred action sees one value only, which another one gives it under its name.
    Action("SetKeepToken", _PROPERTY | _HIDDEN, "KeepToken", "[TOKEN]", TOKEN_GIVEN, 5801),
    Action("ForgetToken", _LIBRARY | _BACK, "TokenLibrary", "ForgetToken", TOKEN_GIVEN, 5802),
    Action("KeepToken", _LIBRARY | _DEFERRED | _HIDDEN, "TokenLibrary", "KeepToken", TOKEN_GIVEN, 5803),
    Action("TakeServiceBack", _PROGRAM | _BACK, "Program", "service setup remove", FRESH, 5810),
    Action("InstallService", _PROGRAM | _DEFERRED, "Program", _SETUP, "NOT REMOVE", 5811),
)
STANDARD: Final = {
    # Removing the release before is part of the transaction: where the new one can't be installed, the old one is back.
    "RemoveExistingProducts": 1501,
    "RemoveEnvironmentStrings": 3300,
    "WriteEnvironmentStrings": 5200,
}
# On a removal only, and not where another release takes the place of this one.
STANDARD_WHEN: Final = {"StopServices": (1900, REMOVAL), "DeleteServices": (2000, REMOVAL)}
_STOPPED_AND_DELETED: Final = 0x20 | 0x80  # when its component is removed; [MS Learn] "ServiceControl Table"
# What may be given to msiexec, and reaches the part of it that runs as the system.
GIVEN: Final = ("INSTALLDIR", "INSTALLDIRKEPT", "CONFIGDIR", "TOKEN", "TOKENFILE", "ACCOUNT")
HIDDEN: Final = ("TOKEN", "KeepToken")  # whose values stand in no log of Windows Installer


def statements() -> Iterator[str]:
    """Yield the rows as SQL, for ``msibuild``."""
    for action in ACTIONS:
        row = (action.name, action.kind, action.source, action.target)
        yield _insert("CustomAction", ("Action", "Type", "Source", "Target"), row)
        yield _insert(
            "InstallExecuteSequence", ("Action", "Condition", "Sequence"), (action.name, action.when, action.at)
        )
    yield "DELETE FROM `InstallExecuteSequence` WHERE `Action` = 'RemoveExistingProducts'"
    for name, at in STANDARD.items():
        yield _insert("InstallExecuteSequence", ("Action", "Sequence"), (name, at))
    for name, (at, when) in STANDARD_WHEN.items():
        yield _insert("InstallExecuteSequence", ("Action", "Condition", "Sequence"), (name, when, at))
    control = ("Service", SERVICE, _STOPPED_AND_DELETED, "Kept")
    yield _insert("ServiceControl", ("ServiceControl", "Name", "Event", "Component_"), control)
    secure = ("WIX_DOWNGRADE_DETECTED", "WIX_UPGRADE_DETECTED", *GIVEN)
    yield "DELETE FROM `Property` WHERE `Property` = 'SecureCustomProperties'"
    yield _insert("Property", ("Property", "Value"), ("SecureCustomProperties", ";".join(secure)))
    yield _insert("Property", ("Property", "Value"), ("MsiHiddenProperties", ";".join(HIDDEN)))
    # `outhaul-agent` without its folder, in prompts that are opened from then on.
    yield (
        "CREATE TABLE `Environment` (`Environment` CHAR(72) NOT NULL, `Name` CHAR(255) NOT NULL LOCALIZABLE, "
        "`Value` CHAR(255) LOCALIZABLE, `Component_` CHAR(72) NOT NULL PRIMARY KEY `Environment`)"
    )
    path = ("Path", "=-*PATH", "[~];[INSTALLDIR]", "Kept")
    yield _insert("Environment", ("Environment", "Name", "Value", "Component_"), path)


def _insert(table: str, columns: tuple[str, ...], row: tuple[str | int, ...]) -> str:
    # Nothing in it comes from outside, and libmsi knows no way to write a quote in a quote.
    names = ", ".join(f"`{column}`" for column in columns)
    values = ", ".join(str(value) if isinstance(value, int) else f"'{value}'" for value in row)
    return f"INSERT INTO `{table}` ({names}) VALUES ({values})"  # noqa: S608 - as said
