"""
What can go wrong between the two programs, by whose fault it is.

* ProtocolError
    * LocalProtocolError      we tried to send what the rules forbid: our bug
    * RemoteProtocolError     the peer sent what the rules forbid: its bug, or no peer of ours
        * VersionMismatch     the two sides have no version of the protocol in common
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The conversation between agent and broker broke its rules."""


class LocalProtocolError(ProtocolError):
    """We tried to send something illegal in this state; a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something illegal or unreadable; the link can't go on."""


class VersionMismatch(RemoteProtocolError):
    """The two sides speak no version of the protocol in common."""
