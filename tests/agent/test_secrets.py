from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keyring.backend
import keyring.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import SecretError
from agent.secrets import SecretStore, open_store
from agent.secrets import master_key as keys
from agent.secrets.keyring_store import WINDOWS_CHARS, KeyringStore
from agent.secrets.resolve import resolve, resolve_url, secret_names
from agent.secrets.vault import VaultStore
from agent.settings import OdbcConnection, Secrets, Settings, SoapAuth, SoapConnection


class KeyringInMemory(keyring.backend.KeyringBackend):
    """A keyring as an operating system has one, without the operating system."""

    priority = -1.0

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.is_locked:
            raise keyring.errors.KeyringLocked("locked")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.entries.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError(username)


def vault(folder: Path, service: str = "s") -> VaultStore:
    return VaultStore(folder, service)


@pytest.fixture(params=["vault", "keyring"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SecretStore:
    return vault(tmp_path) if request.param == "vault" else KeyringStore(KeyringInMemory(), "s")


class Dictionary(SecretStore):
    """Secrets for tests of what is done with them."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def set(self, name: str, value: str) -> None:
        self.values[name] = value

    def delete(self, name: str) -> bool:
        return self.values.pop(name, None) is not None

    def names(self) -> list[str]:
        return sorted(self.values)


# --- what every store does ----------------------------------------------------------------------


def test_a_secret_is_kept_replaced_listed_and_forgotten(store: SecretStore) -> None:
    assert store.get("erp") is None
    assert store.names() == []
    store.set("erp", "one")
    store.set("erp", "zwei ✓ \n;}")
    long = WINDOWS_CHARS if sys.platform == "win32" and isinstance(store, KeyringStore) else 60_000
    store.set("a.b-c_d", "x" * long)
    assert store.get("erp") == "zwei ✓ \n;}"
    assert store.names() == ["a.b-c_d", "erp"]
    assert store.delete("erp") is True
    assert store.delete("erp") is False
    assert store.get("erp") is None
    assert store.names() == ["a.b-c_d"]


@pytest.mark.parametrize("name", ["", "a b", "../a", "@names", "a" * 65, "-a", "a\n"])
def test_a_name_that_no_file_could_ask_for_is_refused(store: SecretStore, name: str) -> None:
    for step in (lambda: store.set(name, "x"), lambda: store.get(name), lambda: store.delete(name)):
        with pytest.raises(SecretError, match="wants a name of"):
            step()


@pytest.mark.parametrize("value", ["", "a\0b", "x" * 70_000])
def test_a_value_that_can_not_be_kept_is_refused_and_not_shown(store: SecretStore, value: str) -> None:
    with pytest.raises(SecretError, match="'erp'") as caught:
        store.set("erp", value)
    assert "xxx" not in str(caught.value)
    assert store.names() == []


def test_a_locked_keyring_is_told_in_words() -> None:
    backend = KeyringInMemory()
    backend.is_locked = True
    with pytest.raises(SecretError, match="is it unlocked"):
        KeyringStore(backend, "s").get("erp")


# --- the vault ----------------------------------------------------------------------------------


def test_another_process_finds_what_was_kept_and_the_file_shows_nothing(tmp_path: Path) -> None:
    vault(tmp_path).set("erp", "very secret")
    assert vault(tmp_path).get("erp") == "very secret"
    assert vault(tmp_path, "another agent").get("erp") is None
    assert b"very" not in (tmp_path / "secrets.vault").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secrets.lock", "secrets.vault", "vault.key"]


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps access lists, which the installer sets")
def test_only_the_account_of_the_agent_may_read_the_files(tmp_path: Path) -> None:
    vault(tmp_path / "state").set("erp", "x")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert modes == {"secrets.vault": 0o600, "vault.key": 0o400, "secrets.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_asking_for_a_secret_makes_no_file(tmp_path: Path) -> None:
    assert vault(tmp_path / "none").get("erp") is None
    assert not (tmp_path / "none").exists()


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: vault(tmp_path).set(name, name * 3), names))
    assert vault(tmp_path).names() == sorted(names)
    assert all(vault(tmp_path).get(name) == name * 3 for name in names)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"format": "outhaul-vault-1"}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_torn_file_is_set_aside_and_never_deleted(tmp_path: Path, damage: bytes) -> None:
    vault(tmp_path).set("erp", "x")
    (tmp_path / "secrets.vault").write_bytes(damage)
    with pytest.raises(SecretError, match="is damaged and was set aside as") as caught:
        vault(tmp_path).get("erp")
    (kept,) = tmp_path.glob("secrets.vault.corrupt-*")
    assert str(kept) in str(caught.value)
    assert kept.read_bytes() == damage
    vault(tmp_path).set("erp", "again")
    assert vault(tmp_path).get("erp") == "again"


@given(data=st.data())
def test_no_damage_ever_gives_a_wrong_value(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("vault")
    vault(folder).set("erp", "right")
    path = folder / "secrets.vault"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert vault(folder).get("erp") in ("right", None)
    except SecretError:
        assert path.exists() or list(folder.glob("secrets.vault.corrupt-*"))


def test_a_value_moved_to_another_name_does_not_open(tmp_path: Path) -> None:
    store = vault(tmp_path)
    store.set("a", "one")
    store.set("b", "two")
    path = tmp_path / "secrets.vault"
    content = json.loads(path.read_bytes())
    entries = content["entries"]["s"]
    entries["a"], entries["b"] = entries["b"], entries["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(SecretError, match="a was changed"):
        store.get("a")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows binds the key by DPAPI instead")
def test_a_folder_copied_to_another_machine_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_text("1" * 32)
    there.write_text("2" * 32)
    monkeypatch.setattr(keys, "_MACHINE_IDS", (here,))
    store = vault(tmp_path / "state")
    store.set("erp", "x")
    before = (tmp_path / "state" / "secrets.vault").read_bytes()
    monkeypatch.setattr(keys, "_MACHINE_IDS", (there,))
    with pytest.raises(SecretError, match="copied from another machine"):
        store.get("erp")
    with pytest.raises(SecretError, match="copied from another machine"):
        store.set("erp", "y")
    assert (tmp_path / "state" / "secrets.vault").read_bytes() == before
    monkeypatch.setattr(keys, "_MACHINE_IDS", (tmp_path / "absent", here))
    assert store.get("erp") == "x"


@pytest.mark.parametrize("directive", ["LoadCredential", "LoadCredentialEncrypted"])
def test_the_key_that_systemd_hands_over_opens_the_vault_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directive: str
) -> None:
    handed_over, plain = tmp_path / "credentials", tmp_path / "plain"
    handed_over.mkdir(mode=0o700)
    credential = handed_over / keys.CREDENTIAL
    plain.write_bytes(os.urandom(32))
    encrypts = shutil.which("systemd-creds") is not None and os.access("/var/lib/systemd", os.W_OK)
    if directive == "LoadCredentialEncrypted" and encrypts:
        # As the manual's line makes it, and as systemd opens it for the service; what is on the disk is not the key.
        locked = tmp_path / "locked"
        for words in (["encrypt", plain, locked], ["decrypt", locked, credential]):
            subprocess.run(
                ["systemd-creds", f"--name={keys.CREDENTIAL}", *map(str, words)], check=True, capture_output=True
            )
        assert plain.read_bytes() not in locked.read_bytes()
    else:
        credential.write_bytes(plain.read_bytes())
    credential.chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed_over))
    store = vault(tmp_path / "state")
    store.set("erp", "canary-word")
    assert not (tmp_path / "state" / "vault.key").exists()
    assert vault(tmp_path / "state").get("erp") == "canary-word"
    assert plain.read_bytes() not in (tmp_path / "state" / "secrets.vault").read_bytes()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(SecretError, match="systemd-run"):
        vault(tmp_path / "state").get("erp")


def test_a_short_credential_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / keys.CREDENTIAL).write_bytes(b"short")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SecretError, match="at least 32 bytes, found 5"):
        vault(tmp_path / "state").set("erp", "x")


@pytest.mark.parametrize("source", ["file", "dpapi"])
def test_a_lost_key_is_told_and_not_made_again(tmp_path: Path, source: keys.Source) -> None:
    vault(tmp_path).set("erp", "x")
    (tmp_path / "vault.key").unlink()
    with pytest.raises(SecretError, match=r"vault\.key is missing"):
        vault(tmp_path).get("erp")
    with pytest.raises(SecretError, match=r"vault\.key is missing"):
        keys.master_key(source, tmp_path, create=False)
    assert not (tmp_path / "vault.key").exists()


def test_a_folder_that_can_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretError, match="can't be used"):
        vault(tmp_path / "file" / "state").set("erp", "x")


# --- which store --------------------------------------------------------------------------------


def test_the_file_says_which_store_and_two_agents_share_none(tmp_path: Path) -> None:
    one = open_store(Settings(agent="one", state_dir="state"), tmp_path)
    two = open_store(Settings(agent="two", state_dir="state"), tmp_path)
    one.set("erp", "1")
    assert two.get("erp") is None
    assert (tmp_path / "state" / "secrets.vault").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a keyring")
def test_a_server_without_a_keyring_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(SecretError, match='use store = "vault"'):
        open_store(Settings(agent="a", state_dir=str(tmp_path), secrets=Secrets(store="keyring")))


def test_reading_the_file_loads_nothing_heavy() -> None:
    heavy = ("keyring", "cryptography", "pyodbc", "lxml", "zeep")
    code = f"import sys, agent.config_file, agent.secrets; print(sorted({{*{heavy}}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- in their places ----------------------------------------------------------------------------


def odbc(text: str) -> OdbcConnection:
    return OdbcConnection(type="odbc", connection_string=text)


@pytest.mark.parametrize(
    ("value", "written", "found"),
    [
        ("plain", "Uid=u;Pwd={secret:p}", "Uid=u;Pwd=plain"),
        ("plain", "Pwd={secret:p};Uid=u", "Pwd=plain;Uid=u"),
        ("a;b", "Pwd={secret:p};Uid=u", "Pwd={a;b};Uid=u"),
        ("a}b", "Pwd={secret:p}", "Pwd={a}}b}"),
        (" a", "Pwd= {secret:p} ;Uid=u", "Pwd= { a} ;Uid=u"),
        ("}};Server=evil", "Pwd={{secret:p}};Uid=u", "Pwd={}}}};Server=evil};Uid=u"),
        ("plain", "Pwd=pre{secret:p}", "Pwd=preplain"),
        ("{secret:q}", "Pwd={secret:p}", "Pwd={{secret:q}}}"),
        ("x", "Driver={PostgreSQL Unicode};Pwd={secret:p}", "Driver={PostgreSQL Unicode};Pwd=x"),
    ],
)
def test_a_secret_stays_one_value_of_a_connection_string(value: str, written: str, found: str) -> None:
    assert resolve(odbc(written), Dictionary(p=value)).connection_string == found


def test_a_secret_that_would_break_out_of_a_part_of_a_value_is_refused_and_not_shown() -> None:
    with pytest.raises(SecretError, match=r"Pwd=\{secret:p\}") as caught:
        resolve(odbc("Pwd=pre{secret:p}"), Dictionary(p="a;Server=evil"))
    assert "evil" not in str(caught.value)


def test_a_model_comes_back_new_with_all_that_is_inside_of_it_in_place() -> None:
    auth = SoapAuth(scheme="basic", username="{secret:user}", password="a{secret:p}b")
    connection = SoapConnection(type="soap", wsdl="x.wsdl", auth=auth)
    found = resolve(connection, Dictionary(user="svc", p="}{;"))
    assert (found.auth.username, found.auth.password) == ("svc", "a}{;b")
    assert connection.auth.password == "a{secret:p}b"
    assert found.wsdl == "x.wsdl"


def test_a_missing_secret_names_the_command_that_sets_it() -> None:
    with pytest.raises(SecretError, match="outhaul-agent secret set erp-password"):
        resolve("{secret:erp-password}", Dictionary())


def test_a_secret_in_a_url_is_percent_encoded() -> None:
    assert resolve_url("http://u:{secret:p}@proxy:3128", Dictionary(p="a@b:/c")) == "http://u:a%40b%3A%2Fc@proxy:3128"


def test_the_names_in_a_model_are_found() -> None:
    auth = SoapAuth(scheme="basic", username="{secret:a}", password="{secret:b}{secret:c}")
    assert secret_names(SoapConnection(type="soap", wsdl="x", auth=auth)) == {"a", "b", "c"}
    assert secret_names("{secret:a} {secrets:b} {secret: c}") == {"a"}
