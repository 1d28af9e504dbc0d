"""How the service is called on Windows, and who it is to the system's access lists."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

SERVICE: Final = "OuthaulAgent"
DISPLAY: Final = "Outhaul agent"
DESCRIPTION: Final = (
    "Runs the operations that agent.toml names, for the cloud broker that this agent dials. "
    "Stopped, nothing is run here; what is asked meanwhile waits at the broker."
)
OWN_ACCOUNT: Final = rf"NT SERVICE\{SERVICE}"  # a virtual account: it has no password, and exists with the service

SYSTEM: Final = "S-1-5-18"
ADMINISTRATORS: Final = "S-1-5-32-544"


def service_sid(service: str = SERVICE) -> str:
    r"""
    Return the SID that Windows gives a service, under whatever account it runs.

    It is made from the name alone, so that rights can be given by it where ``NT SERVICE\...`` is called something
    else, and before the service is there.

    Source:
        [MS-DTYP] 2.4.2.4, SECURITY_SERVICE_ID_BASE_RID; ``sc showsid``.
    """
    digest = hashlib.sha1(service.upper().encode("utf-16-le"), usedforsecurity=False).digest()
    return "S-1-5-80-" + "-".join(map(str, struct.unpack("<5I", digest)))


def may_own(owner: str, caller: str) -> bool:
    """
    Whether a folder that was there already may become the agent's: its owner can give itself any right to it.

    Args:
        owner: SID of who has it.
        caller: SID of who makes the service, which only administrators can.
    """
    return owner in (SYSTEM, ADMINISTRATORS, service_sid("TrustedInstaller"), caller)
