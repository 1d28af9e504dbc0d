"""Who may do what with the agent's folders on Windows, by SID: names of accounts differ with the system's language."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any, Final

import pywintypes
import win32api
import win32security

from agent.service.windows_names import may_own, service_sid

if sys.platform != "win32":
    raise ImportError("for Windows only")

_ALL: Final = "FA"
_CHANGE: Final = "0x1301bf"  # read, write, execute and delete, but not the rights themselves
_READ: Final = "0x1200a9"  # read and execute
_REVISION: Final = 1  # of SDDL
LOGON_RIGHT: Final = "SeServiceLogonRight"
_POLICY_ACCESS: Final = 0x810  # POLICY_LOOKUP_NAMES and POLICY_CREATE_ACCOUNT


def administrators_and(service: str) -> str:
    """
    Return an access list, as SDDL, that takes nothing from the folder above, and the administrators as owners.

    Administrators and the system may do all, the service what ``service`` says, nobody else anything.
    """
    mine = f"(A;OICI;{service};;;{service_sid()})"
    return f"O:BAD:PAI(A;OICI;{_ALL};;;SY)(A;OICI;{_ALL};;;BA){mine}"


FOR_THE_FILE: Final = administrators_and(_READ)  # the operator's word: the service may not change it
FOR_THE_SERVICE: Final = administrators_and(_CHANGE)


def rights(folder: Path) -> str:
    """Return the access list of a folder as SDDL."""
    found = win32security.GetNamedSecurityInfo(
        str(folder), win32security.SE_FILE_OBJECT, win32security.DACL_SECURITY_INFORMATION
    )
    return str(
        win32security.ConvertSecurityDescriptorToStringSecurityDescriptor(
            found, _REVISION, win32security.DACL_SECURITY_INFORMATION
        )
    )


def set_rights(folder: Path, sddl: str) -> None:
    """Give a folder, and what is in it, an access list; and the folder an owner, if one is named."""
    wanted = win32security.ConvertStringSecurityDescriptorToSecurityDescriptor(sddl, _REVISION)
    guard = (
        win32security.PROTECTED_DACL_SECURITY_INFORMATION
        if "D:P" in sddl
        else win32security.UNPROTECTED_DACL_SECURITY_INFORMATION
    )
    owner = wanted.GetSecurityDescriptorOwner() if sddl.startswith("O:") else None
    if owner is not None:
        guard |= win32security.OWNER_SECURITY_INFORMATION
    win32security.SetNamedSecurityInfo(
        str(folder),
        win32security.SE_FILE_OBJECT,
        win32security.DACL_SECURITY_INFORMATION | guard,
        owner,
        None,
        wanted.GetSecurityDescriptorDacl(),
        None,
    )


def distrusted(path: Path) -> str:
    """Return why a folder or file can't be taken for one that an administrator made; "" if it can be."""
    if path.lstat().st_file_attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        return "is a link to somewhere else"
    try:
        found = win32security.GetNamedSecurityInfo(
            str(path), win32security.SE_FILE_OBJECT, win32security.OWNER_SECURITY_INFORMATION
        )
    except pywintypes.error:
        return "does not show to whom it belongs"  # an administrator sees that, unless somebody took the right away
    owner = found.GetSecurityDescriptorOwner()
    if may_own(_text(owner), _text(_caller())):
        return ""
    return f"belongs to {_called(owner)}, who is neither the system nor the administrators"


def _caller() -> Any:
    token = win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32security.TOKEN_QUERY)
    try:
        return win32security.GetTokenInformation(token, win32security.TokenUser)[0]
    finally:
        win32api.CloseHandle(token)


def _text(sid: Any) -> str:
    return str(win32security.ConvertSidToStringSid(sid))


def _called(sid: Any) -> str:
    try:
        name, domain, _ = win32security.LookupAccountSid(None, sid)
    except pywintypes.error:
        return _text(sid)  # it is gone, or of a domain that does not answer
    return f"{domain}\\{name} ({_text(sid)})"


def may_log_on_as_service(account: str, *, allow: bool) -> bool:
    """
    Give an account the right to log on as a service, or take it away.

    Returns:
        Whether that was a change. Virtual accounts have the right from the system.
    """
    sid, _, _ = win32security.LookupAccountName(None, account)
    policy: Any = win32security.LsaOpenPolicy("", _POLICY_ACCESS)
    try:
        if allow == (LOGON_RIGHT in _account_rights(policy, sid)):
            return False
        if allow:
            win32security.LsaAddAccountRights(policy, sid, (LOGON_RIGHT,))
        else:
            win32security.LsaRemoveAccountRights(policy, sid, 0, (LOGON_RIGHT,))
        return True
    finally:
        win32security.LsaClose(policy)


def _account_rights(policy: Any, sid: Any) -> tuple[str, ...]:
    try:
        return tuple(win32security.LsaEnumerateAccountRights(policy, sid))
    except pywintypes.error:
        return ()  # it has none yet
