"""Where the broker and the key come from, and that no key goes where it does not belong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud_broker.client import profile
from cloud_broker.client.errors import ProfileError
from cloud_broker.client.profile import Profile


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path), "APPDATA": str(tmp_path)}


def test_what_was_kept_is_found_again_under_its_name(environ: dict[str, str]) -> None:
    profile.keep(None, Profile("https://a.example", "key-a"), environ)
    profile.keep("test", Profile("https://b.example", "key-b", "acme"), environ)
    assert profile.find(None, None, environ) == Profile("https://a.example", "key-a")
    assert profile.find("test", None, environ) == Profile("https://b.example", "key-b", "acme")
    assert profile.find("test", "other", environ).tenant == "other"


def test_the_environment_wins(environ: dict[str, str]) -> None:
    profile.keep(None, Profile("https://a.example", "key-a", "acme"), environ)
    wins = {"OUTHAUL_URL": "https://c.example", "OUTHAUL_KEY": "key-c", "OUTHAUL_TENANT": "beta"}
    assert profile.find(None, None, environ | wins) == Profile("https://c.example", "key-c", "beta")
    assert profile.find(None, None, environ | {"OUTHAUL_KEY": "key-c"}) == Profile("https://a.example", "key-c", "acme")


def test_a_kept_key_is_not_sent_to_another_address(environ: dict[str, str]) -> None:
    profile.keep(None, Profile("https://a.example", "key-a"), environ)
    with pytest.raises(ProfileError, match=r"the kept key is for https://a.example: set OUTHAUL_KEY too"):
        profile.find(None, None, environ | {"OUTHAUL_URL": "https://evil.example"})
    assert profile.find(None, None, environ | {"OUTHAUL_URL": "https://a.example/"}).key == "key-a"


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        (None, {}, "no broker is known: run `outhaul login`"),
        (None, {"OUTHAUL_URL": "https://a.example"}, "OUTHAUL_KEY is not set"),
        ("test", {}, r"no profile 'test' \(there is: none\)"),
    ],
)
def test_what_is_missing_is_told(environ: dict[str, str], name: str | None, more: dict[str, str], told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        profile.find(name, None, environ | more)


@pytest.mark.parametrize("content", ["{", "[]", '{"default": {}}', '{"default": {"url": 1, "key": "k"}}', "7"])
def test_a_damaged_file_is_told(environ: dict[str, str], content: str) -> None:
    path = profile.keep(None, Profile("https://a.example", "key-a"), environ)
    path.write_text(content)
    with pytest.raises(ProfileError, match="damaged"):
        profile.find(None, None, environ)


def test_only_its_user_may_read_the_file(environ: dict[str, str]) -> None:
    path = profile.keep(None, Profile("https://a.example", "key-a"), environ)
    if os.name != "posix":
        return  # Windows keeps %APPDATA% from other users by itself
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ProfileError, match="others may read it: run `chmod 600"):
        profile.find(None, None, environ)


def test_a_profile_does_not_show_its_key() -> None:
    assert "key-a" not in repr(Profile("https://a.example", "key-a"))


@pytest.mark.parametrize(
    ("environ", "platform", "wanted"),
    [
        ({"APPDATA": "C"}, "win32", Path("C/outhaul")),
        ({}, "win32", Path.home() / "AppData" / "Roaming" / "outhaul"),
        ({"XDG_CONFIG_HOME": "/x"}, "linux", Path("/x/outhaul")),
        ({}, "linux", Path.home() / ".config" / "outhaul"),
    ],
)
def test_the_folder_is_the_users_own(environ: dict[str, str], platform: str, wanted: Path) -> None:
    assert profile.folder(environ, platform) == wanted
