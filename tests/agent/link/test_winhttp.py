"""What Windows writes of proxies, read; asked of a Windows itself in tests/installer."""

from __future__ import annotations

import pytest

from agent.link.winhttp import urls


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("proxy:3128", ["http://proxy:3128"]),
        ("http://proxy:3128", ["http://proxy:3128"]),
        ("a:80;b:81", ["http://a:80", "http://b:81"]),
        ("a:80 b:81", ["http://a:80", "http://b:81"]),
        ("http=a:80;https=b:81;socks=c:1080", ["http://b:81"]),
        ("http=a:80;socks=c:1080", ["socks5h://c:1080"]),
        ("https=http://b:81", ["http://b:81"]),
        ("http=a:80", []),
        ("", []),
        (";;", []),
    ],
)
def test_a_list_of_windows_is_read(named: str, found: list[str]) -> None:
    assert urls(named) == found
