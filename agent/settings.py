"""
The operator's file as plain structs: each key with its default and meaning.

Nothing else can be run than what stands here. ``settings_reader.py`` makes them of a file, ``config_file.py`` reads the
file, and ``config_errors.py`` says what is wrong with it, with file, line, key and fix.
"""

import math
import re
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from agent.windows import parse_window
from protocol import limits

# \Z, as $ would take a line feed behind the name.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"
# A name, or several joined by dots, each in the quotes of some database or in none; only quotes hold spaces.
_PART = r'(?:[\w$#]+|"(?:[\w$#. ]|"")+"|`(?:[\w$#. ]|``)+`|\[[\w$#. ]+\])'
PROCEDURE = rf"^{_PART}(?:\.{_PART})*\Z"
_WSS = r"^wss://[^/?#@]+/?\Z"
SIGNER_KEY = r"^ed25519:[A-Za-z0-9+/]{43}=\Z"
Name = Annotated[str, Meta(pattern=NAME)]
Given = Annotated[str, Meta(min_length=1)]
Effect = Literal["read", "idempotent", "once", "at-most-once"]
TAG: Final = "kind"  # tells the members of a union apart where they are sent; no key of the file

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"^(\d+)\s*/\s*(s|min|h)$")


def seconds(value: object) -> object:
    """Turn ``"30s"``, ``"5min"`` or a number into float seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f"wants a duration such as '30s', '5min' or '1h', found {value!r}")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def per_second(value: object) -> object:
    """Turn ``"600/min"`` into commands per second."""
    if isinstance(value, str):
        match = _RATE.match(value)
        if match is None or int(match[1]) == 0:
            raise ValueError(f"wants a rate such as '10/s' or '600/min', found {value!r}")
        return int(match[1]) / _SECONDS[match[2]]
    if value == math.inf:
        raise ValueError("wants a finite number, found inf")
    return value


def window(value: object) -> object:
    """Check that a posting window can be read; it is kept as written."""
    if isinstance(value, str):
        parse_window(value)
    return value


def iso(value: object) -> object:
    """Turn a date or time that TOML read into its text."""
    return value.isoformat() if isinstance(value, date | time) else value


def stripped(value: object) -> object:
    """Return a text without the space around it."""
    return value.strip() if isinstance(value, str) else value


class Form(msgspec.Struct, frozen=True):
    """
    How a value stands in the file, where that is not how it is kept.

    Attributes:
        read: makes what is kept of what stands there; raises ValueError with what was wanted.
        schema: makes the JSON Schema of what may stand there of that of what is kept.
    """

    read: Callable[[object], object]
    schema: Callable[[dict[str, Any]], dict[str, Any]] = dict


def _or_text(pattern: re.Pattern[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda kept: {
        "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern.pattern}]
    }


# Longer than anything here takes, and less than what the clocks of drivers and threads can count to.
MAX_SECONDS: Final = 31 * 86_400

_DURATIONS: Final = {"form": Form(seconds, _or_text(_DURATION))}
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS, extra=_DURATIONS)]
PerSecond = Annotated[float, Meta(gt=0, extra={"form": Form(per_second, _or_text(_RATE))})]
WindowText = Annotated[str, Meta(extra={"form": Form(window)})]
Bound = Annotated[float | int | str | None, Meta(extra={"form": Form(iso)})]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown keys are errors; nothing changes after loading."""


# --- parameters ---------------------------------------------------------------------------------

ParamType = Literal[
    "string", "integer", "decimal", "number", "boolean", "date", "datetime", "time", "binary", "json", "uuid"
]


class Param(Model, frozen=True, kw_only=True):
    """A typed parameter; required unless it has a default."""

    type: Annotated[ParamType, Meta(description="What its values are; `enum` makes it a choice.")] = "string"
    description: Annotated[str, Meta(description="For people.")] = ""
    direction: Annotated[
        Literal["in", "out", "inout"],
        Meta(description="`out` and `inout`: of a procedure; they come back in `outputs`."),
    ] = "in"
    required: Annotated[bool | None, Meta(description="Default: true, unless there is a default or it is `out`.")] = (
        None
    )
    default: Annotated[Any, Meta(description="Used where the caller gives none.")] = msgspec.UNSET
    nullable: Annotated[bool, Meta(description="Whether null may be given.")] = False
    enum: Annotated[
        Annotated[tuple[str | int, ...], Meta(min_length=1)] | None, Meta(description="The only values allowed.")
    ] = None
    min: Annotated[Bound, Meta(description="Smallest value; a string for decimals and dates.")] = None
    max: Annotated[Bound, Meta(description="Largest value.")] = None
    min_length: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Characters (string) or bytes (binary).")
    ] = None
    max_length: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Characters (string) or bytes (binary).")
    ] = None
    pattern: Annotated[str | None, Meta(description="Regular expression that the whole string must match.")] = None
    scale: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Digits after the point of a decimal at most.")
    ] = None
    precision: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Digits of a decimal in all at most.")] = (
        None
    )

    @property
    def wanted(self) -> bool:
        """Whether a call without it is refused."""
        if self.direction == "out":
            return False
        if self.required is not None:
            return self.required
        return not self.has_default

    @property
    def has_default(self) -> bool:
        """Whether a call without it takes a value from here."""
        return self.default is not msgspec.UNSET

    def __post_init__(self) -> None:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as exc:
                raise ValueError(f"pattern is not a regular expression: {exc}") from exc


# --- operations ---------------------------------------------------------------------------------


class FileFormat(Model, frozen=True, kw_only=True):
    """How a file is written or read."""

    type: Annotated[Literal["csv", "fixed-width", "xml", "json", "raw"], Meta(description="The kind of content.")]
    columns: Annotated[tuple[str, ...] | None, Meta(description="csv: names and order of the columns.")] = None
    widths: Annotated[tuple[int, ...] | None, Meta(description="fixed-width: characters of each column.")] = None
    align: Annotated[tuple[Literal["left", "right"], ...] | None, Meta(description="fixed-width: default left.")] = None
    fill: Annotated[str, Meta(min_length=1, max_length=1, description="fixed-width: what fills a column.")] = " "
    delimiter: Annotated[str, Meta(min_length=1, max_length=1, description="csv: between two values.")] = ","
    quote: Annotated[str, Meta(min_length=1, max_length=1, description="csv: around a value that needs it.")] = '"'
    header: Annotated[bool, Meta(description="csv: whether the first line has the names.")] = True
    newline: Annotated[Literal["\n", "\r\n"], Meta(description="csv, fixed-width: end of each line.")] = "\r\n"
    root: Annotated[str | None, Meta(description="xml: the root element, where the document does not name it.")] = None

    def __post_init__(self) -> None:
        if self.type == "fixed-width":
            if self.columns is None or self.widths is None:
                raise ValueError("fixed-width wants columns and widths")
            if len(self.columns) != len(self.widths):
                raise ValueError(f"{len(self.columns)} columns but {len(self.widths)} widths")
            if self.align is not None and len(self.align) != len(self.columns):
                raise ValueError(f"{len(self.columns)} columns but {len(self.align)} entries in align")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("a column is named twice")


class OperationBase(Model, frozen=True, kw_only=True, tag_field=TAG):
    """What every operation has."""

    connection: Annotated[Name, Meta(description="The connection it runs on.")]
    description: Annotated[str, Meta(description="For people; shown to callers.")] = ""
    effect: Annotated[Effect, Meta(description="How often it may run; see the reference.")] = "at-most-once"
    timeout: Annotated[Seconds, Meta(description="Time from start to end; then it is stopped.")] = 60.0
    params: Annotated[dict[Name, Param], Meta(description="Parameters, in order.")] = {}
    verify: Annotated[Name | None, Meta(description="A read operation that tells whether it happened.")] = None
    mask: Annotated[tuple[str, ...], Meta(description="Columns and outputs that never leave the site in clear.")] = ()
    columns: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None,
        Meta(description="The only columns and outputs that leave the site; others are left out."),
    ] = None
    max_rows: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="A result with more rows is refused.")] = (
        None
    )
    allow: Annotated[
        Annotated[tuple[Name, ...], Meta(min_length=1)] | None,
        Meta(description="The only callers (of `policy.trusted_signers`) that may have it run; they sign."),
    ] = None
    version: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="Callers sign it; change it when the operation means another thing.",
        ),
    ] = "1"


class SqlOperation(OperationBase, frozen=True, kw_only=True):
    """A statement with named parameters."""

    sql: Annotated[str, Meta(description="SQL; parameters as `:name`, bound and never pasted.")]
    business_errors: Annotated[tuple[str, ...], Meta(description="SQLSTATEs or native codes: the ERP said no.")] = ()


class ProcedureOperation(OperationBase, frozen=True, kw_only=True):
    """A stored procedure."""

    procedure: Annotated[
        str, Meta(pattern=PROCEDURE, description="Its name; parameters are given in the order of `params`.")
    ]
    pin: Annotated[
        Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")] | None,
        Meta(
            description="What `check` shows of the procedure's parameters; it is refused when the database's are "
            "others."
        ),
    ] = None
    business_errors: Annotated[tuple[str, ...], Meta(description="SQLSTATEs or native codes: the ERP said no.")] = ()


class DropOperation(OperationBase, frozen=True, kw_only=True):
    """A file written whole, or not at all."""

    drop: Annotated[
        str, Meta(min_length=1, description="The file's name, with parameters in braces; never a way out of root.")
    ]
    format: Annotated[FileFormat, Meta(description="What is written.")]
    encoding: Annotated[str, Meta(description="Any Python codec, `cp037` (EBCDIC) included.")] = "utf-8"
    overwrite: Annotated[bool, Meta(description="Whether a file of this name may be replaced.")] = False
    max_bytes: Annotated[int, Meta(ge=0, description="Largest file that is written, in bytes.")] = 10 * 1_073_741_824


class PickOperation(OperationBase, frozen=True, kw_only=True):
    """Files read; their rows come out."""

    pick: Annotated[str, Meta(min_length=1, description="Pattern of the names, such as `CONF*.csv`.")]
    format: Annotated[FileFormat, Meta(description="How they are read.")]
    encoding: Annotated[str, Meta(description="Any Python codec.")] = "utf-8"
    then: Annotated[
        Literal["keep", "archive", "delete"], Meta(description="What becomes of a file once the broker has its rows.")
    ] = "keep"
    effect: Annotated[Effect, Meta(description="How often it may run.")] = "read"


class CallOperation(OperationBase, frozen=True, kw_only=True):
    """A SOAP call."""

    call: Annotated[str, Meta(min_length=1, description="The operation's name in the WSDL.")]
    service: Annotated[str | None, Meta(description="The WSDL's service, where it has several.")] = None
    port: Annotated[str | None, Meta(description="The service's port, where it has several.")] = None
    business_faults: Annotated[
        tuple[str, ...], Meta(description="Fault codes or detail elements: the ERP said no.")
    ] = ()
    rows: Annotated[
        Annotated[str, Meta(pattern=r"^[^/\s]+(/[^/\s]+)*\Z")] | None,
        Meta(description="Where in the answer the elements are that repeat, such as `Orders/Order`: they become rows."),
    ] = None


class SyntheticOperation(OperationBase, frozen=True, kw_only=True):
    """No outside system: for probes and load tests."""

    synthetic: Annotated[
        Literal["echo", "rows", "sleep", "fail"],
        Meta(description="echo: outputs = params. rows: count, width. sleep: seconds. fail: kind, message."),
    ]
    effect: Annotated[Effect, Meta(description="How often it may run.")] = "read"


OPERATION_KINDS: dict[str, type[OperationBase]] = {
    "sql": SqlOperation,
    "procedure": ProcedureOperation,
    "drop": DropOperation,
    "pick": PickOperation,
    "call": CallOperation,
    "synthetic": SyntheticOperation,
}
KINDS_OF_CONNECTION: dict[str, tuple[str, ...]] = {
    "odbc": ("sql", "procedure"),
    "file": ("drop", "pick"),
    "soap": ("call",),
    "synthetic": ("synthetic",),
}


Operation = SqlOperation | ProcedureOperation | DropOperation | PickOperation | CallOperation | SyntheticOperation


# --- connections --------------------------------------------------------------------------------


class Breaker(Model, frozen=True, kw_only=True):
    """When a connection is left alone."""

    failures: Annotated[int, Meta(ge=1, description="Technical failures in a row that open it.")] = 5
    cool_down: Annotated[Seconds, Meta(description="How long it is then left alone.")] = 30.0


class ConnectionBase(Model, frozen=True, kw_only=True, tag_field=TAG):
    """What every connection has."""

    max_concurrent: Annotated[int, Meta(ge=1, le=1000, description="Commands at once.")] = 4
    rate: Annotated[PerSecond | None, Meta(description="Commands at most, such as `600/min`; more wait.")] = None
    windows: Annotated[
        tuple[WindowText, ...],
        Meta(description="When commands run, in local time, such as `mon-fri 06:00-22:00`; others wait."),
    ] = ()
    breaker: Annotated[Breaker, Meta(description="When it is left alone after failures.")] = field(
        default_factory=Breaker
    )
    idle: Annotated[Seconds, Meta(description="An unused driver process ends after this.")] = 300.0


class OdbcConnection(ConnectionBase, frozen=True, kw_only=True):
    """A database behind an ODBC driver."""

    type: Annotated[Literal["odbc"], Meta(description="The kind of connection.")]
    connection_string: Annotated[str, Meta(description="As the driver wants it, secrets as `{secret:NAME}`.")]
    dialect: Annotated[
        Literal["auto", "postgresql", "mariadb", "sqlite", "sqlserver", "oracle", "db2", "generic"],
        Meta(description="How procedures are called; `auto` asks the driver."),
    ] = "auto"
    login_timeout: Annotated[Seconds, Meta(description="Time to connect.")] = 15.0
    ledger: Annotated[
        Annotated[str, Meta(pattern=PROCEDURE)] | None,
        Meta(description='Table for effect = "once"; `outhaul-agent ledger sql` prints it.'),
    ] = None


class FileConnection(ConnectionBase, frozen=True, kw_only=True):
    """A folder."""

    type: Annotated[Literal["file"], Meta(description="The kind of connection.")]
    root: Annotated[str, Meta(min_length=1, description="The folder; nothing is written or read outside of it.")]
    archive: Annotated[str, Meta(description='Folder in root for picked files with then = "archive".')] = "archive"


class SoapAuth(Model, frozen=True, kw_only=True):
    """How a SOAP service is to know us."""

    scheme: Annotated[Literal["none", "basic", "digest", "wsse", "certificate"], Meta(description="The method.")]
    username: Annotated[str | None, Meta(description="basic, digest, wsse.")] = None
    password: Annotated[
        str | None, Meta(description="basic, digest, wsse: as `{secret:NAME}`; certificate: of the key.")
    ] = None
    digest: Annotated[bool, Meta(description="wsse: send a digest of the password instead of the password.")] = False
    certificate: Annotated[str | None, Meta(description="certificate: PEM file with the certificate.")] = None
    key: Annotated[
        str | None, Meta(description="certificate: PEM file with its key, if it is not in the same file.")
    ] = None

    def __post_init__(self) -> None:
        if self.scheme in ("basic", "digest", "wsse") and (self.username is None or self.password is None):
            raise ValueError(f"scheme {self.scheme} wants username and password")
        if self.scheme == "certificate" and self.certificate is None:
            raise ValueError("scheme certificate wants certificate")


class SoapConnection(ConnectionBase, frozen=True, kw_only=True):
    """A SOAP service."""

    type: Annotated[Literal["soap"], Meta(description="The kind of connection.")]
    wsdl: Annotated[str, Meta(description="A local file beside this one, or a URL.")]
    endpoint: Annotated[str | None, Meta(description="Where the service is, if the WSDL names another place.")] = None
    auth: Annotated[SoapAuth, Meta(description="How it knows us.")] = field(
        default_factory=lambda: SoapAuth(scheme="none")
    )
    ca: Annotated[str | None, Meta(description="PEM file of the authority to trust, if not the system's.")] = None
    max_reply_bytes: Annotated[
        int,
        Meta(ge=1024, description="A larger reply is refused; with `rows`, what stands beside them, and one row."),
    ] = 16_777_216


class SyntheticConnection(ConnectionBase, frozen=True, kw_only=True):
    """No outside system."""

    type: Annotated[Literal["synthetic"], Meta(description="The kind of connection.")]
    max_concurrent: Annotated[int, Meta(ge=1, le=1000, description="Commands at once.")] = 64


Connection = OdbcConnection | FileConnection | SoapConnection | SyntheticConnection


# --- the rest -----------------------------------------------------------------------------------


class Link(Model, frozen=True, kw_only=True):
    """
    The way to the broker; where it is stands in the token that enrolled the agent.

    With certificates of your own there is no token: then `url`, `certificate` and `authorities` say it all.
    """

    transport: Annotated[Literal["websocket"], Meta(description="How the agent reaches the broker.")] = "websocket"
    proxy: Annotated[
        str,
        Meta(
            pattern=r"^(system|none|https?://.+|socks5h?://.+)\Z",
            description="`system`, `none`, `http://user@proxy:3128` or `socks5h://…`; a password as `{secret:NAME}`.",
        ),
    ] = "system"
    no_proxy: Annotated[
        tuple[Annotated[str, Meta(min_length=1, extra={"form": Form(stripped)})], ...],
        Meta(
            description="Hosts, domains (`.example.com`) and networks (`10.0.0.0/8`) that are dialled without a proxy."
        ),
    ] = ()
    extra_authorities: Annotated[
        Given | None,
        Meta(description="PEM file of your company's authorities, for a proxy that speaks TLS (`https://…`)."),
    ] = None
    urls: Annotated[
        tuple[Annotated[str, Meta(pattern=_WSS)], ...],
        Meta(max_length=8, description="Addresses of the broker, tried in turn, in place of the one in the token."),
    ] = ()
    heartbeat: Annotated[
        float,
        Meta(
            extra=_DURATIONS,
            ge=1.0,
            le=limits.BEAT_S,
            description="How long the link may be silent; less than the time after which a proxy cuts an idle "
            "connection.",
        ),
    ] = limits.BEAT_S
    url: Annotated[
        Annotated[str, Meta(pattern=_WSS)] | None,
        Meta(description="Where the broker is, with a certificate of your own."),
    ] = None
    certificate: Annotated[
        Given | None,
        Meta(description="PEM file of your own authority, instead of enrolment; read again when it changes."),
    ] = None
    key: Annotated[Given | None, Meta(description="PEM file with its key, if it is not in the same file.")] = None
    passphrase: Annotated[str | None, Meta(description="Of the key, as `{secret:NAME}`.")] = None
    authorities: Annotated[
        Given | None, Meta(description="PEM file of the authorities that the broker's certificate is taken from.")
    ] = None

    def __post_init__(self) -> None:
        own = {"url": self.url, "certificate": self.certificate, "authorities": self.authorities}
        missing = [name for name, value in own.items() if value is None]
        given = [name for name in (*own, "key", "passphrase") if getattr(self, name) is not None]
        if given and missing:
            raise ValueError(
                f"a certificate of your own wants url, certificate and authorities; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Without one leave out {' and '.join(given)}"
            )


class SignerKey(Model, frozen=True, kw_only=True):
    """A public key of a caller, for a time."""

    key: Annotated[str, Meta(pattern=SIGNER_KEY, description="`ed25519:` and 32 bytes in base64.")]
    not_before: Annotated[datetime | None, Meta(description="What was signed before then is refused.")] = None
    not_after: Annotated[datetime | None, Meta(description="What is signed later is refused.")] = None


def signer_keys(value: object) -> object:
    """Turn one key, or one with its validity, into a list of keys."""
    if isinstance(value, str):
        return ({"key": value},)
    return (value,) if isinstance(value, dict) else value


def _or_one(kept: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "pattern": SIGNER_KEY.replace(r"\Z", "$")}, kept["items"], kept]}


SignerKeys = Annotated[tuple[SignerKey, ...], Meta(min_length=1, extra={"form": Form(signer_keys, _or_one)})]


class Policy(Model, frozen=True, kw_only=True):
    """Who may have what run."""

    trusted_signers: Annotated[
        dict[Name, SignerKeys],
        Meta(
            description="Callers' public keys by name: `ed25519:BASE64`, or a list of `{ key, not_before, not_after }`."
        ),
    ] = {}
    require_signature: Annotated[
        tuple[Name, ...], Meta(description="Operations that run only when a trusted caller signed them.")
    ] = ()
    groups: Annotated[
        tuple[Name, ...],
        Meta(
            description="Groups of agents that this one serves; what was signed for a group runs only where it stands."
        ),
    ] = ()


class Secrets(Model, frozen=True, kw_only=True):
    """Where the values of `{secret:NAME}` live."""

    store: Annotated[
        Literal["vault", "keyring"],
        Meta(
            description="`vault`: an encrypted file in state_dir, the same for every account of this machine's agent; "
            "`keyring`: the keyring of the account that runs the agent."
        ),
    ] = "vault"


class Log(Model, frozen=True, kw_only=True):
    """What is told, and where: on standard error, or in a file that never grows beyond its bounds."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least that is told.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="For people or for collectors.")] = "text"
    file: Annotated[
        Given | None, Meta(description="Where `run` and the service write it, in place of standard error.")
    ] = None
    file_bytes: Annotated[
        int, Meta(ge=10_000, le=1 << 30, description="A file of this size is set aside for a new one.")
    ] = 10 * 1024 * 1024
    files: Annotated[int, Meta(ge=2, le=100, description="How many there are, the one that is written included.")] = 5


class TableTrigger(Model, frozen=True, kw_only=True, tag_field=TAG):
    """Rows that appear in a table."""

    type: Annotated[Literal["table"], Meta(description="The kind of trigger.")]
    connection: Annotated[Name, Meta(description="An odbc connection.")]
    sql: Annotated[str, Meta(description="Rows after `:after`, in order.")]
    after: Annotated[dict[str, Any], Meta(description="The column that grows, and where to start.")]
    every: Annotated[Seconds, Meta(description="How often it looks.")] = 10.0
    event: Annotated[str, Meta(description="The type of the CloudEvent.")]


class FileTrigger(Model, frozen=True, kw_only=True, tag_field=TAG):
    """Files that appear in a folder."""

    type: Annotated[Literal["file"], Meta(description="The kind of trigger.")]
    connection: Annotated[Name, Meta(description="A file connection.")]
    pattern: Annotated[str, Meta(description="Pattern of the names.")]
    event: Annotated[str, Meta(description="The type of the CloudEvent.")]
    then: Annotated[Literal["keep", "archive", "delete"], Meta(description="What becomes of the file.")] = "archive"


Trigger = TableTrigger | FileTrigger


class Upgrade(Model, frozen=True, kw_only=True):
    """Which packages `outhaul-agent upgrade` installs."""

    trusted_keys: Annotated[
        tuple[Annotated[str, Meta(pattern=SIGNER_KEY)], ...],
        Meta(description="Public keys of those who make your packages: `ed25519:` and 32 bytes in base64."),
    ] = ()


class Settings(Model, frozen=True, kw_only=True):
    """The whole file."""

    agent: Annotated[Name, Meta(description="The agent's name, as in its token.")]
    state_dir: Annotated[
        str, Meta(min_length=1, description="Certificate, journal, spool; only the agent's account may read it.")
    ]
    max_running: Annotated[int, Meta(ge=1, le=1000, description="Commands at once, over all connections.")] = 64
    link: Annotated[Link, Meta(description="The way to the broker.")] = field(default_factory=Link)
    policy: Annotated[Policy, Meta(description="Who may have what run.")] = field(default_factory=Policy)
    secrets: Annotated[Secrets, Meta(description="Where secrets live.")] = field(default_factory=Secrets)
    log: Annotated[Log, Meta(description="What is told.")] = field(default_factory=Log)
    upgrade: Annotated[Upgrade, Meta(description="Which packages are installed.")] = field(default_factory=Upgrade)
    connections: Annotated[dict[Name, Connection], Meta(description="Local systems.")] = {}
    operations: Annotated[dict[Name, Operation], Meta(description="What may be run.")] = {}
    triggers: Annotated[dict[Name, Trigger], Meta(description="What is watched.")] = {}
