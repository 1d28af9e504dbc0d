"""
Windows' own settings for proxies: those of the account, a script among them (WPAD or its address), and of the machine.

A service's account has settings of its own, which are mostly empty; those of the machine (``netsh winhttp set proxy``)
count then. Scripts are found, fetched and run by Windows.

Source:
    WinHttpGetIEProxyConfigForCurrentUser, WinHttpGetProxyForUrl, WinHttpGetDefaultProxyConfiguration (Microsoft).
"""

from __future__ import annotations

import ctypes
import logging
import re
from typing import Any, Final

from agent.link.proxy import exempt

AUTO_DETECT, CONFIG_URL = 0x1, 0x2  # WINHTTP_AUTOPROXY_*
BY_DHCP, BY_DNS = 0x1, 0x2  # WINHTTP_AUTO_DETECT_TYPE_*
NO_PROXY: Final = 1  # WINHTTP_ACCESS_TYPE_NO_PROXY, also for WinHttpOpen
NAMED_PROXY: Final = 3  # WINHTTP_ACCESS_TYPE_NAMED_PROXY
RESOLVE_MS, ANSWER_MS = 5_000, 5_000  # for a script; a network without one must not keep a dial waiting
_KINDS: Final = ("https", "socks")  # of a list by protocols, in the order of their weight

log = logging.getLogger(__name__)


class _UserConfig(ctypes.Structure):
    """WINHTTP_CURRENT_USER_IE_PROXY_CONFIG."""

    _fields_ = (
        ("auto_detect", ctypes.c_int),
        ("config_url", ctypes.c_void_p),
        ("proxy", ctypes.c_void_p),
        ("bypass", ctypes.c_void_p),
    )


class _AutoOptions(ctypes.Structure):
    """WINHTTP_AUTOPROXY_OPTIONS."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("detect_flags", ctypes.c_uint32),
        ("config_url", ctypes.c_wchar_p),
        ("reserved", ctypes.c_void_p),
        ("reserved_number", ctypes.c_uint32),
        ("log_on", ctypes.c_int),
    )


class _ProxyInfo(ctypes.Structure):
    """WINHTTP_PROXY_INFO."""

    _fields_ = (("access", ctypes.c_uint32), ("proxy", ctypes.c_void_p), ("bypass", ctypes.c_void_p))


def proxies(host: str, port: int) -> list[tuple[str, str]]:
    """Return the proxies that Windows names for a broker, "" for the straight way, each with where it was found."""
    api = _Api()
    user = api.of_user()
    if user is not None:
        auto_detect, script, named, bypass = user
        if auto_detect or script:
            found = api.by_script(f"https://{_in_url(host)}:{port}/", auto_detect, script)
            if found is not None:
                place = f"Windows' automatic setting ({script or 'found by WPAD'})"
                return _listed(*found, host, port, place) or [("", "")]
        if named:
            return _listed(named, bypass, host, port, "Windows' proxy setting of this account") or [("", "")]
    machine = api.of_machine()
    if machine is None:
        return []
    return _listed(*machine, host, port, "Windows' proxy setting of this machine (netsh winhttp)")


def _listed(named: str, bypass: str, host: str, port: int, place: str) -> list[tuple[str, str]]:
    if exempt(host, port, re.split(r"[;\s]+", bypass)):
        return []
    return [(url, place) for url in urls(named)]


def urls(named: str) -> list[str]:
    """
    Return the proxies of a list as Windows writes it, as URLs.

    ``proxy:3128``, ``a:80;b:80`` (one after the other), or ``http=a:80;https=b:80;socks=c:1080`` (by protocols).
    """
    plain: list[str] = []
    kinds: dict[str, list[str]] = {}
    for entry in re.split(r"[;\s]+", named):
        kind, equals, address = entry.rpartition("=")
        if equals and address:
            kinds.setdefault(kind.lower(), []).append(address)
        elif entry:
            plain.append(entry)
    if plain:
        return [entry if "://" in entry else f"http://{entry}" for entry in plain]
    for kind in _KINDS:
        if kind in kinds:
            scheme = "socks5h" if kind == "socks" else "http"
            return [entry if "://" in entry else f"{scheme}://{entry}" for entry in kinds[kind]]
    return []


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Api:
    """WinHTTP, by ctypes."""

    def __init__(self) -> None:
        win: Any = getattr(ctypes, "WinDLL", None)  # named so for tools that look at other systems
        self._dll: Any = win("winhttp", use_last_error=True)
        self._free: Any = win("kernel32").GlobalFree
        self._free.argtypes = (ctypes.c_void_p,)
        self._dll.WinHttpOpen.restype = ctypes.c_void_p
        self._dll.WinHttpOpen.argtypes = (
            ctypes.c_wchar_p,
            ctypes.c_uint32,
            ctypes.c_wchar_p,
            ctypes.c_wchar_p,
            ctypes.c_uint32,
        )
        self._dll.WinHttpSetTimeouts.argtypes = (ctypes.c_void_p, *[ctypes.c_int] * 4)
        self._dll.WinHttpGetProxyForUrl.argtypes = (
            ctypes.c_void_p,
            ctypes.c_wchar_p,
            ctypes.POINTER(_AutoOptions),
            ctypes.POINTER(_ProxyInfo),
        )
        self._dll.WinHttpCloseHandle.argtypes = (ctypes.c_void_p,)

    def of_user(self) -> tuple[bool, str, str, str] | None:
        """Return whether to look for a script, its URL, the proxies and the exceptions of this account."""
        config = _UserConfig()
        if not self._dll.WinHttpGetIEProxyConfigForCurrentUser(ctypes.byref(config)):
            return None
        texts = [self._text(pointer) for pointer in (config.config_url, config.proxy, config.bypass)]
        return bool(config.auto_detect), texts[0], texts[1], texts[2]

    def by_script(self, url: str, auto_detect: bool, script: str) -> tuple[str, str] | None:
        """Return what a script says of a URL: the proxies, "" for none; ``None`` if there is no script that says."""
        session = self._dll.WinHttpOpen("outhaul-agent", NO_PROXY, None, None, 0)
        if not session:
            return None
        try:
            self._dll.WinHttpSetTimeouts(session, RESOLVE_MS, ANSWER_MS, ANSWER_MS, ANSWER_MS)
            # A named script first: a look for another takes seconds where there is none.
            if script:
                found = self._asked(session, url, _AutoOptions(CONFIG_URL, 0, script, None, 0, 1))
                if found is not None:
                    return found
            if auto_detect:
                return self._asked(session, url, _AutoOptions(AUTO_DETECT, BY_DHCP | BY_DNS, None, None, 0, 1))
            return None
        finally:
            self._dll.WinHttpCloseHandle(session)

    def of_machine(self) -> tuple[str, str] | None:
        """Return the proxies and exceptions that ``netsh winhttp`` set for the machine; ``None`` if it has none."""
        info = _ProxyInfo()
        if not self._dll.WinHttpGetDefaultProxyConfiguration(ctypes.byref(info)):
            return None
        proxy, bypass = self._text(info.proxy), self._text(info.bypass)
        return (proxy, bypass) if info.access == NAMED_PROXY and proxy else None

    def _asked(self, session: int, url: str, options: _AutoOptions) -> tuple[str, str] | None:
        info = _ProxyInfo()
        if not self._dll.WinHttpGetProxyForUrl(session, url, ctypes.byref(options), ctypes.byref(info)):
            get_last_error: Any = getattr(ctypes, "get_last_error", int)
            log.info(
                "Windows found no script for proxies (error %d)", get_last_error(), extra={"event": "no_proxy_script"}
            )
            return None
        proxy, bypass = self._text(info.proxy), self._text(info.bypass)
        return (proxy, bypass) if info.access == NAMED_PROXY else ("", "")

    def _text(self, pointer: int | None) -> str:
        """Return a text that Windows gave, and give its memory back."""
        if not pointer:
            return ""
        text = ctypes.wstring_at(pointer)
        self._free(pointer)
        return text
