"""The broker's file as pydantic models: each key with its default and meaning; all of it is optional."""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cloud_broker.tenants import NAME, SCOPES

ENVIRONMENT_KEY: Final = "OUTHAUL_BROKER_CONFIG"
DEFAULT_FILE: Final = "broker.toml"
_ADDRESS: Final = re.compile(r"^(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>\d{1,5})$")
_DURATION: Final = re.compile(r"^(\d+(?:\.\d+)?) ?(ms|s|min|h|d)$")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")


class ConfigError(Exception):
    """The settings, or what they point at, can't be used; the text is for the operator."""


def split_address(address: str) -> tuple[str, int]:
    """
    Return host and port of ``127.0.0.1:8440`` or ``[::1]:8440``.

    Raises:
        ValueError: it is neither.
    """
    match = _ADDRESS.match(address)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"wants HOST:PORT such as '127.0.0.1:8440' or '[::1]:8440', found {address!r}")
    return match["v6"] or match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    split_address(value)
    return value


def _websocket(value: str) -> str:
    if value and not re.match(r"^wss://[^\s/]+/?$", value):
        raise ValueError(f"wants 'wss://HOST:PORT', the address that agents dial, found {value!r}")
    return value.rstrip("/")


def checked_web_address(value: str) -> str:
    """
    Return an address that keys may be fetched from.

    Raises:
        ValueError: it is none, or what comes from it could be changed on its way.
    """
    parts = urlsplit(value)
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return value
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(
            f"wants an address such as 'https://login.example.com' (http:// on loopback only), found {value!r}"
        )
    return value


def _path(value: object) -> object:
    if isinstance(value, str):
        return (value,) if value else ()
    return value


def _ip_address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _tenant(value: str) -> str:
    if not NAME.match(value):
        raise ValueError(f"wants a tenant's name, found {value!r}")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as exc:
        raise ValueError(f"wants an address or a network such as '10.0.0.0/8', found {value!r}: {exc}") from exc
    return value


def _trust_domain(value: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(value):
        raise ValueError(f"wants lower-case letters, digits, '.', '_' and '-', such as 'example.com', found {value!r}")
    return value


def _store(value: object) -> object:
    if isinstance(value, str) and value.startswith(("postgresql://", "postgres://")):
        raise ValueError('PostgreSQL as the broker\'s store comes with a later release; use "sqlite"')
    return value


def _results(value: object) -> object:
    if isinstance(value, str) and value.startswith("s3://"):
        raise ValueError('results in S3 come with a later release; use "file"')
    return value


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f"wants a duration such as '500ms', '30s', '5min' or '30d', found {value!r}")
        return float(match[1]) * _SECONDS[match[2]]
    return value


Address = Annotated[str, AfterValidator(_address)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]


class Model(BaseModel):
    """Unknown keys are errors; nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IssuerSettings(Model):
    """``[[api.issuers]]``: an OpenID provider whose tokens (JWTs) are taken in place of keys."""

    issuer: Annotated[str, AfterValidator(checked_web_address)] = Field(
        description="Its name, as its tokens have it in `iss`, such as `https://login.example.com/realms/erp`."
    )
    audience: Annotated[str, Field(min_length=1)] = Field(
        description="What its tokens for this broker have in `aud`; others are refused."
    )
    jwks: str = Field("", description="URL or file of its public keys; empty means where its discovery document says.")
    tenant_claim: Annotated[tuple[str, ...], BeforeValidator(_path)] = Field(
        ("tenant",),
        description="The claim that names the tenant or a list of tenants; for one within another the names on the "
        "way, as a list. Empty where `tenants` names the one that all tokens are for.",
    )
    tenants: tuple[Annotated[str, AfterValidator(_tenant)], ...] = Field(
        (), description="The tenants that its tokens may be for; empty means any that a token names."
    )
    scope_claim: Annotated[tuple[str, ...], BeforeValidator(_path)] = Field(
        ("scope",), description="The claim with the scopes or roles, as text or list; written as `tenant_claim` is."
    )
    roles: dict[str, tuple[Literal[SCOPES], ...]] = Field(  # type: ignore[valid-type]  # pydantic takes a tuple of texts
        default_factory=dict,
        description="Scopes for each role in that claim; empty means that the claim has scopes themselves.",
    )
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = Field(
        ("RS256", "ES256"), description="With which its tokens may be signed; all of them have a public key."
    )
    leeway: Seconds = Field(30.0, ge=0, le=300, description="Seconds that its clock and ours may differ.")

    @model_validator(mode="after")
    def _whole(self) -> IssuerSettings:
        if not self.tenant_claim and len(self.tenants) != 1:
            raise ValueError("an empty tenant_claim wants exactly one name in tenants")
        if not self.scope_claim:
            raise ValueError("scope_claim wants the name of a claim")
        if "://" in self.jwks:
            checked_web_address(self.jwks)
        return self


class ApiSettings(Model):
    """``[api]``: what callers reach."""

    listen: Address = Field("127.0.0.1:8440", description="HTTP API; plain HTTP on loopback only.")
    certificate: Path | None = Field(None, description="PEM file of the API's certificate chain; turns HTTPS on.")
    key: Path | None = Field(None, description="PEM file of that certificate's private key.")
    proxies: tuple[Annotated[str, AfterValidator(_ip_address)], ...] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses of proxies before the API: what they say in X-Forwarded-For is taken for true.",
    )
    issuers: tuple[IssuerSettings, ...] = Field((), description="OpenID providers; a table `[[api.issuers]]` for each.")

    @model_validator(mode="after")
    def _each_issuer_once(self) -> ApiSettings:
        names = [issuer.issuer for issuer in self.issuers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the issuer {twice!r} stands twice")
        return self

    @model_validator(mode="after")
    def _encrypted_beyond_this_machine(self) -> ApiSettings:
        if (self.certificate is None) != (self.key is None):
            missing = "certificate" if self.certificate is None else "key"
            raise ValueError(f"certificate and key go together; {missing} is missing")
        host, _ = split_address(self.listen)
        if self.certificate is None and not is_loopback(host):
            raise ValueError(
                f"listen = {self.listen!r} is reachable from other machines, and API keys must not cross a network "
                "in clear; set certificate and key, or listen on 127.0.0.1 behind a proxy that ends TLS"
            )
        return self


class LinkSettings(Model):
    """``[link]``: what agents reach."""

    listen: Address = Field("127.0.0.1:8443", description="Mutual-TLS websocket of the agents, enrolment included.")
    public_url: Annotated[str, AfterValidator(_websocket)] = Field(
        "", description='What agents dial, such as "wss://broker.example.com:8443"; empty means the listen address.'
    )
    certificate: Path | None = Field(
        None,
        description="PEM file of a server certificate of your own with its chain; "
        "without it the broker's authority makes one.",
    )
    key: Path | None = Field(None, description="PEM file of that certificate's private key.")
    authorities: Path | None = Field(
        None,
        description="PEM file of whom agents are to trust besides the broker's authority: those of a certificate of "
        "your own, here or at a TLS terminator. The first goes into tokens.",
    )
    client_authorities: Path | None = Field(
        None,
        description="PEM file of your own PKI's authorities: agents registered with `outhaul-broker agent add` show "
        "certificates of theirs.",
    )
    terminators: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description='Addresses of TLS terminators in front, such as ["10.0.0.0/8"]: from there, and from nowhere else, '
        "the header Client-Cert (RFC 9440) is an agent's certificate.",
    )

    @model_validator(mode="after")
    def _whole(self) -> LinkSettings:
        if (self.certificate is None) != (self.key is None):
            missing = "certificate" if self.certificate is None else "key"
            raise ValueError(f"certificate and key go together; {missing} is missing")
        return self

    @model_validator(mode="after")
    def _dialable(self) -> LinkSettings:
        host, _ = split_address(self.listen)
        if not self.public_url and host in ("0.0.0.0", "::"):  # noqa: S104 - recognised, not listened on
            raise ValueError(
                f"listen = {self.listen!r} is every address of this machine, which is none that agents can dial; "
                'set public_url, such as "wss://broker.example.com:8443"'
            )
        return self

    @property
    def url(self) -> str:
        """What agents dial."""
        return self.public_url or f"wss://{self.listen}"


class CertificateSettings(Model):
    """``[certificates]``: of the agents, from the broker's own authority."""

    issue: bool = Field(
        True,
        description="Whether that authority issues and is trusted; false where all agents have those of your own PKI.",
    )
    life: Seconds = Field(
        30 * 86_400.0, ge=1.0, le=3_650 * 86_400.0, description="How long one is good; agents renew at two thirds."
    )
    grace: Seconds = Field(
        90 * 86_400.0,
        ge=0,
        le=3_650 * 86_400.0,
        description="How long after its end an agent that was off gets another by itself; then it wants a new token.",
    )
    trust_domain: Annotated[str, AfterValidator(_trust_domain)] = Field(
        "outhaul", description="In their names: spiffe://TRUST-DOMAIN/tenant/TENANT/agent/AGENT."
    )


class LimitSettings(Model):
    """``[limits]``: what one caller or agent may ask of the broker."""

    command_bytes: int = Field(
        1_048_576, ge=1_024, le=1_048_576, description="Parameters of one command, in bytes; more belongs in a blob."
    )
    retention_days: float = Field(
        30,
        gt=0,
        description="Days that ended commands and their results are kept; those in doubt: from when they are resolved.",
    )
    result_bytes: int = Field(
        10 * 1_073_741_824,
        ge=65_536,
        description="Largest result of one command, in bytes; beyond it the command fails.",
    )
    blob_bytes: int = Field(
        10 * 1_073_741_824, ge=65_536, description="Largest blob, a content for a drop, in bytes; beyond it: 413."
    )
    tenant_blob_bytes: int = Field(
        50 * 1_073_741_824, ge=0, description="All blobs of one tenant, in bytes; beyond: 507. 0: any number."
    )
    blob_days: float = Field(
        2,
        gt=0,
        description="Days that a blob is kept after it came, or a command named it; longer for those that have no end "
        "or are dead letters.",
    )
    inline_bytes: int = Field(
        65_536,
        ge=0,
        le=1_048_576,
        description="Results up to this many bytes are kept in the store, larger ones as files.",
    )
    requests_per_s: float = Field(
        2_000,
        ge=0,
        description="Requests a second of one tenant, twice as many at a stroke; beyond: 429. 0: any number.",
    )
    requests_at_once: int = Field(
        1_000, ge=0, description="Requests of one tenant under way, those that wait included. 0: any number."
    )
    bulk_lines_per_s: float = Field(
        20_000,
        ge=0,
        description="Commands a second of one tenant in bulk; beyond, they are taken in slower. 0: any number.",
    )
    open_commands: int = Field(
        100_000, ge=0, description="Commands of one tenant that have no end yet; beyond: 429. 0: any number."
    )
    wrong_keys_per_min: int = Field(
        60, ge=0, description="Wrong keys a minute from one address, before they are not even told so. 0: any number."
    )
    connections: int = Field(8_192, ge=0, description="Connections to the API. 0: any number.")
    connections_per_address: int = Field(
        256, ge=0, description="Connections to the API from one address that is not one of api.proxies. 0: any number."
    )
    strangers: int = Field(
        1_024,
        ge=0,
        description="Connections to the agents' port of which it is not known yet who they are. 0: any number.",
    )
    strangers_per_address: int = Field(
        64,
        ge=0,
        description="Such connections from one address, or one IPv6 network, that is not one of link.terminators; "
        "agents that have shown their certificate do not count. 0: any number.",
    )
    slow_request: Seconds = Field(
        20.0,
        ge=0,
        description="Longest time for the headers of a request; its body has as long, and a second more a KiB. 0: any.",
    )
    slow_reader: Seconds = Field(
        300.0, ge=0, description="An answer of which next to nothing is read for so long is cut. 0: never."
    )


class RetrySettings(Model):
    """``[retries]``: what follows an attempt that failed for a technical reason and certainly had no effect."""

    attempts: int = Field(
        5,
        ge=1,
        le=100,
        description="Tries of one command that may fail; 1 tries none again. "
        "A system that can't even be reached uses up none.",
    )
    first: Seconds = Field(1.0, ge=0.01, le=3_600, description="Longest wait before the second try; then it doubles.")
    most: Seconds = Field(60.0, ge=0.01, le=86_400, description="Longest wait before any try.")


class ApprovalSettings(Model):
    """``[approvals]``: what one person asks for and another decides on."""

    required: tuple[Literal["bulk_replay", "resolve", "revoke", "replace_agent", "mapping_approval"], ...] = Field(
        (),
        description="Acts that need a second person: bulk_replay, resolve, revoke (of agents), replace_agent (tokens "
        "for agents that are enrolled), mapping_approval.",
    )
    expire: Seconds = Field(
        86_400.0, ge=1, le=30 * 86_400, description="How long an act waits for somebody to decide on it."
    )


class LogSettings(Model):
    """``[log]``: what goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is worth a line.")
    format: Literal["text", "json"] = Field("text", description="text for people, json for one JSON object a line.")


class Settings(Model):
    """The broker's file."""

    data_dir: Path = Field(
        Path("/var/lib/outhaul-broker"), description="The broker's own folder: authority, store, results."
    )
    store: Annotated[Literal["sqlite"], BeforeValidator(_store)] = Field(
        "sqlite", description='Where commands are kept: "sqlite", a file in data_dir.'
    )
    results: Annotated[Literal["file"], BeforeValidator(_results)] = Field(
        "file", description='Where big results are kept: "file", a folder in data_dir.'
    )
    api: ApiSettings = Field(default_factory=ApiSettings, description="What callers reach.")
    link: LinkSettings = Field(default_factory=LinkSettings, description="What agents reach.")
    certificates: CertificateSettings = Field(
        default_factory=CertificateSettings, description="Of the agents, from the broker's own authority."
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What one caller or agent may ask.")
    retries: RetrySettings = Field(default_factory=RetrySettings, description="What follows a failed attempt.")
    approvals: ApprovalSettings = Field(
        default_factory=ApprovalSettings, description="What one person asks for and another decides on."
    )
    log: LogSettings = Field(default_factory=LogSettings, description="What goes to stderr.")

    @property
    def store_file(self) -> Path:
        """The file of the embedded store."""
        return self.data_dir / "broker.db"

    @property
    def api_url(self) -> str:
        """Where callers on this machine find the API."""
        return f"{'https' if self.api.certificate else 'http'}://{self.api.listen}"


def find_file(named: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file to read: the named one, the environment's, or ``broker.toml`` here if there is one."""
    if named is not None:
        return named
    if environment.get(ENVIRONMENT_KEY):
        return Path(environment[ENVIRONMENT_KEY])
    here = Path(DEFAULT_FILE)
    return here if here.is_file() else None


def load(path: Path | None) -> Settings:
    """
    Read the broker's file; paths in it are relative to its folder. The defaults for ``None``.

    Raises:
        ConfigError: every problem, each with file, line, key and fix.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: can't be read: {exc}") from exc
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: wants fewer lists within lists") from exc
    except ValueError as exc:  # int() refuses more digits than sys.get_int_max_str_digits()
        raise ConfigError(f"{path}: a number has more digits than can be read") from exc
    if "mqtt" in found:
        line = _line(text, ("mqtt",))
        raise ConfigError(f"{path}:{line}: mqtt: MQTT as the agents' way in comes with a later release; remove [mqtt]")
    try:
        settings = Settings.model_validate(found)
    except ValidationError as exc:
        raise ConfigError("\n".join(_problem(path, text, error) for error in exc.errors())) from exc
    return _beside(settings, path.absolute().parent)


def _beside(settings: Settings, folder: Path) -> Settings:
    api, link = settings.api, settings.link
    named = ("certificate", "key", "authorities", "client_authorities")
    return settings.model_copy(
        update={
            "data_dir": folder / settings.data_dir,
            "api": api.model_copy(
                update={
                    "certificate": folder / api.certificate if api.certificate else None,
                    "key": folder / api.key if api.key else None,
                    "issuers": tuple(_issuer_beside(issuer, folder) for issuer in api.issuers),
                }
            ),
            "link": link.model_copy(
                update={name: folder / path for name in named if (path := getattr(link, name)) is not None}
            ),
        }
    )


def _issuer_beside(issuer: IssuerSettings, folder: Path) -> IssuerSettings:
    if not issuer.jwks or "://" in issuer.jwks:
        return issuer
    return issuer.model_copy(update={"jwks": str(folder / issuer.jwks)})


def _problem(path: Path, text: str, error: Any) -> str:
    where = tuple(str(part) for part in error["loc"])
    place = f"{path}:{_line(text, where)}: {'.'.join(where)}"
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key; {_known(where[:-1])}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{place}: {message}"
    return f"{place}: {message[:1].lower()}{message[1:]}, found {error['input']!r}"


def _known(table: tuple[str, ...]) -> str:
    model: type[BaseModel] = Settings
    for name in table:
        if name.isdigit():
            continue
        annotation = model.model_fields[name].annotation
        # A list of tables: each is as the first.
        annotation = next(iter(get_args(annotation)), annotation)
        assert isinstance(annotation, type)  # noqa: S101 - only tables have keys within; this tells mypy
        model = annotation
    return f"known are {', '.join(model.model_fields)}"


def _line(text: str, where: tuple[str, ...]) -> int:
    """Return the line of a key, or of what it is in, or 1."""
    table, found, longest = "", 1, 0
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[{1,2})\s*([^\]\[\s]+)\s*\]", line)
        if header:
            table = header[2]
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = f"{table}.{counts[table]}"
        key = re.match(r"\s*[\"']?([A-Za-z0-9_.-]+)[\"']?\s*=", line)
        if header or key:
            path = ".".join(part for part in (table, key[1] if key else "") if part)
            if path == ".".join(where):
                return number
            if len(path) > longest and ".".join(where).startswith(f"{path}."):
                found, longest = number, len(path)
    return found
