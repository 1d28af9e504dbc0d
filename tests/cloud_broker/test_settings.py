"""The broker's file: complete example, defaults, and what is wrong told with file, line, key and fix."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cloud_broker.settings import ConfigError, Settings, find_file, is_loopback, load, split_address

ISSUER = "[[api.issuers]]\nissuer = 'https://login.example.com'\n"
EXAMPLE = Path(__file__).parents[2] / "config/broker.example.toml"


def keys(model: type[BaseModel], table: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield each key with its table, its default, and its meaning."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"[{name}]", None, field.description or ""
            yield from keys(kind, f"{name}.")
        else:
            default = field.get_default()
            yield table + name, list(default) if isinstance(default, tuple) else default, field.description or ""


def example_keys() -> Iterator[tuple[str, Any, str]]:
    """Yield the same from the example file; keys that have no default stand as comments."""
    table, comment = "", ""
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if header := re.match(r"\[(\w+)\]$", line):
            table = f"{header[1]}."
            yield line, None, comment
        elif key := re.match(r"(# )?(\w+) = (.+)$", line):
            default = None if key[1] else tomllib.loads(f"value = {key[3]}")["value"]
            yield table + key[2], default, comment
        else:
            comment = line.removeprefix("# ")


def test_the_example_and_the_settings_agree() -> None:
    wanted = [
        (name, str(default) if isinstance(default, Path) else default, text) for name, default, text in keys(Settings)
    ]

    assert list(example_keys()) == wanted


def test_the_example_says_what_holds_without_a_file() -> None:
    assert load(EXAMPLE) == load(None) == Settings()


def write(folder: Path, text: str) -> Path:
    path = folder / "broker.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("colour = 1", 1, "colour: unknown key; known are data_dir, store, results, api, link, certificates, "),
        (
            "\n[api]\nlissten = '127.0.0.1:1'",
            3,
            "api.lissten: unknown key; known are listen, certificate, key, proxies, issuers",
        ),
        ("[limits]\ncommand_bytes = '8'\nretention_days = true", 2, "limits.command_bytes: .*found '8'"),
        ("[limits]\ncommand_bytes = 0", 2, "limits.command_bytes: .*greater than or equal to 1024, found 0"),
        ("[limits]\ncommand_bytes = 99999999", 2, "limits.command_bytes: .*less than"),
        ("[limits]\nretention_days = 0", 2, "limits.retention_days: .*greater than 0"),
        ("[api]\nlisten = '8440'", 2, "api.listen: wants HOST:PORT"),
        ("[api]\nlisten = '127.0.0.1:99999'", 2, "api.listen: wants HOST:PORT"),
        (
            "[api]\nlisten = '0.0.0.0:8440'",
            1,
            "api: listen = .* is reachable from other machines.*certificate",
        ),
        ("[api]\nlisten = 'example.com:8440'", 1, "certificate and key"),
        ("\n[api]\ncertificate = 'a.pem'", 2, "api: certificate and key go together; key is missing"),
        ("[api]\nkey = 'a.pem'", 1, "api: certificate and key go together; certificate is missing"),
        ("[link]\ncertificate = 'a.pem'", 1, "link: certificate and key go together; key is missing"),
        ("[link]\nterminators = ['10.0.0.1/8']", 2, "link.terminators.0: wants an address or a network such as"),
        ("[link]\nterminators = ['balancer']", 2, "wants an address or a network such as '10.0.0.0/8'"),
        ("[certificates]\nlife = '30 days'", 2, "certificates.life: wants a duration such as .*'30d'"),
        ("[certificates]\nlife = 0", 2, "certificates.life: .*greater than or equal to 1"),
        ("[certificates]\ntrust_domain = 'Example.com/x'", 2, "certificates.trust_domain: wants lower-case letters"),
        ("[[api.issuers]]\naudience = 'a'", 1, "api.issuers.0.issuer: field required"),
        (ISSUER + "audience = 'a'\ncolour = 1", 4, "unknown key; known are issuer, audience, jwks, tenant_claim"),
        (ISSUER + "audience = 'a'\nalgorithms = ['HS256']", 4, "api.issuers.0.algorithms.0: input should be 'RS256'"),
        (ISSUER + "audience = 'a'\nalgorithms = []", 4, "at least 1 item"),
        (ISSUER + "audience = 'a'\njwks = 'http://a.example/keys'", 1, "wants an address such as 'https://"),
        (ISSUER + "audience = 'a'\ntenant_claim = ''", 1, "wants exactly one name in tenants"),
        (ISSUER + "audience = 'a'\nroles = { a = ['fly'] }", 4, "api.issuers.0.roles.a.0: input should be"),
        (ISSUER + "audience = 'a'\n" + ISSUER + "audience = 'b'", 1, "stands twice"),
        (ISSUER + "audience = 'a'\n[[api.issuers]]\nissuer = 7", 5, "api.issuers.1.issuer: input should be a"),
        ("[link]\nlisten = '0.0.0.0:8443'", 1, "link: .*set public_url"),
        ("[link]\npublic_url = 'https://a'", 2, "link.public_url: wants 'wss://HOST:PORT'"),
        ("[log]\nlevel = 'loud'", 2, "log.level: .*'debug', 'info', 'warning' or 'error', found 'loud'"),
        ("log = 5", 1, "log: .*found 5"),
        ("[retries]\nfirst = 'soon'", 2, "retries.first: wants a duration such as '500ms', .*found 'soon'"),
        ("[retries]\nattempts = 0", 2, "retries.attempts: .*greater than or equal to 1, found 0"),
        ("store = 'postgresql://db'", 1, "store: PostgreSQL as the broker's store comes with a later release"),
        ("store = 'mysql'", 1, "store: input should be 'sqlite', found 'mysql'"),
        ("results = 's3://bucket'", 1, "results: results in S3 come with a later release"),
        ("# a\n[mqtt]\nurl = 'mqtts://a'", 2, "mqtt: .*comes with a later release"),
    ],
)
def test_a_wrong_key_is_told_with_its_line_and_its_fix(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load(path)

    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{path}:{line}: ")
    assert re.search(said, str(caught.value))


def test_a_wait_is_seconds_or_a_duration_with_its_unit(tmp_path: Path) -> None:
    retries = load(write(tmp_path, "[retries]\nfirst = '500ms'\nmost = 90")).retries
    assert (retries.first, retries.most) == (0.5, 90.0)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "colour = 1\n[api]\nlisten = 'x'\n[log]\nlevel = 'loud'"))

    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(("text", "said"), [("a = ", "is not TOML"), ("a = 1\na = 2", "is not TOML")])
def test_what_is_no_toml_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(write(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "nothing.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(
        write(tmp_path, "data_dir = 'data'\n[api]\nlisten='0.0.0.0:1'\ncertificate = 'a.pem'\nkey = '/b.pem'")
    )

    assert settings.data_dir == tmp_path / "data"
    assert settings.api.certificate == tmp_path / "a.pem"
    assert settings.api.key == Path("/b.pem").absolute()
    assert settings.api_url == "https://0.0.0.0:1"

    link = "[link]\ncertificate = 'a.pem'\nkey = '/b.pem'\nauthorities = 'c.pem'\nclient_authorities = 'd.pem'"
    found = load(write(tmp_path, link)).link
    assert (found.certificate, found.key) == (tmp_path / "a.pem", Path("/b.pem").absolute())
    assert (found.authorities, found.client_authorities) == (tmp_path / "c.pem", tmp_path / "d.pem")


def test_agents_dial_the_public_url_or_the_listener(tmp_path: Path) -> None:
    assert Settings().link.url == "wss://127.0.0.1:8443"
    public = load(write(tmp_path, "[link]\nlisten = '0.0.0.0:8443'\npublic_url = 'wss://broker.example.com:8443/'"))
    assert public.link.url == "wss://broker.example.com:8443"


def test_the_named_file_goes_before_the_environments_and_that_before_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"OUTHAUL_BROKER_CONFIG": "there.toml"}

    assert find_file(None, {}) is None
    write(tmp_path, "")
    assert find_file(None, {}) == Path("broker.toml")
    assert find_file(None, environment) == Path("there.toml")
    assert find_file(Path("named.toml"), environment) == Path("named.toml")


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:8440", ("127.0.0.1", 8440)), ("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "8440", ":8440", "host", "host:", "::1:8440", "[::1]", "a b:1", "host:65536"])
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="wants HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("192.168.0.1", False),
        ("10.0.0.1", False),
        ("::", False),
        ("broker", False),
    ],
)
def test_only_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
