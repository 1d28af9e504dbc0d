"""
The operator's file as pydantic models: each key with its default and meaning.

Nothing else can be run than what stands here. ``config_file.py`` reads the file and turns
what pydantic finds wrong into messages with file, line, key and fix.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from agent.windows import parse_window
from protocol import limits

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# A name, or several joined by dots, each in the quotes of some database or in none; only quotes hold spaces.
_PART = r'(?:[\w$#]+|"(?:[\w$#. ]|"")+"|`(?:[\w$#. ]|``)+`|\[[\w$#. ]+\])'
PROCEDURE = rf"^{_PART}(?:\.{_PART})*$"
SIGNER_KEY = r"^ed25519:[A-Za-z0-9+/]{43}=$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Effect = Literal["read", "idempotent", "once", "at-most-once"]

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
    return value


def window(value: object) -> object:
    """Check that a posting window can be read; it is kept as written."""
    if isinstance(value, str):
        parse_window(value)
    return value


def _or_text(pattern: re.Pattern[str]) -> WithJsonSchema:
    # For editors: what stands in the file, not what becomes of it.
    return WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern.pattern}]}
    )


# Longer than anything here takes, and less than what the clocks of drivers and threads can count to.
MAX_SECONDS: Final = 31 * 86_400

Seconds = Annotated[
    float, BeforeValidator(seconds), Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False), _or_text(_DURATION)
]
PerSecond = Annotated[float, BeforeValidator(per_second), Field(gt=0, allow_inf_nan=False), _or_text(_RATE)]
WindowText = Annotated[str, BeforeValidator(window)]


def iso(value: object) -> object:
    """Turn a date or time that TOML read into its text."""
    return value.isoformat() if isinstance(value, date | time) else value


Bound = Annotated[float | int | str | None, BeforeValidator(iso)]


class Model(BaseModel):
    """Unknown keys are errors; nothing changes after loading."""

    # Without the input: it may hold a password that should not stand there.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# --- parameters ---------------------------------------------------------------------------------

ParamType = Literal[
    "string", "integer", "decimal", "number", "boolean", "date", "datetime", "time", "binary", "json", "uuid"
]


class Param(Model):
    """A typed parameter; required unless it has a default."""

    type: ParamType = Field("string", description="What its values are; `enum` makes it a choice.")
    description: str = Field("", description="For people.")
    direction: Literal["in", "out", "inout"] = Field(
        "in", description="`out` and `inout`: of a procedure; they come back in `outputs`."
    )
    required: bool | None = Field(None, description="Default: true, unless there is a default or it is `out`.")
    default: Any = Field(None, description="Used where the caller gives none.")
    nullable: bool = Field(False, description="Whether null may be given.")
    enum: tuple[str | int, ...] | None = Field(None, min_length=1, description="The only values allowed.")
    min: Bound = Field(None, description="Smallest value; a string for decimals and dates.")
    max: Bound = Field(None, description="Largest value.")
    min_length: int | None = Field(None, ge=0, description="Characters (string) or bytes (binary).")
    max_length: int | None = Field(None, ge=0, description="Characters (string) or bytes (binary).")
    pattern: str | None = Field(None, description="Regular expression that the whole string must match.")
    scale: int | None = Field(None, ge=0, description="Digits after the point of a decimal at most.")
    precision: int | None = Field(None, ge=1, description="Digits of a decimal in all at most.")

    @property
    def wanted(self) -> bool:
        """Whether a call without it is refused."""
        if self.direction == "out":
            return False
        if self.required is not None:
            return self.required
        return "default" not in self.model_fields_set

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Param:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as exc:
                raise ValueError(f"pattern is not a regular expression: {exc}") from exc
        return self


# --- operations ---------------------------------------------------------------------------------


class FileFormat(Model):
    """How a file is written or read."""

    type: Literal["csv", "fixed-width", "xml", "json", "raw"] = Field(description="The kind of content.")
    columns: tuple[str, ...] | None = Field(None, description="csv: names and order of the columns.")
    widths: tuple[int, ...] | None = Field(None, description="fixed-width: characters of each column.")
    align: tuple[Literal["left", "right"], ...] | None = Field(None, description="fixed-width: default left.")
    fill: str = Field(" ", min_length=1, max_length=1, description="fixed-width: what fills a column.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="csv: between two values.")
    quote: str = Field('"', min_length=1, max_length=1, description="csv: around a value that needs it.")
    header: bool = Field(True, description="csv: whether the first line has the names.")
    newline: Literal["\n", "\r\n"] = Field("\r\n", description="csv, fixed-width: end of each line.")
    root: str | None = Field(None, description="xml: the root element, where the document does not name it.")

    @model_validator(mode="after")
    def _complete(self) -> FileFormat:
        if self.type == "fixed-width":
            if self.columns is None or self.widths is None:
                raise ValueError("fixed-width wants columns and widths")
            if len(self.columns) != len(self.widths):
                raise ValueError(f"{len(self.columns)} columns but {len(self.widths)} widths")
            if self.align is not None and len(self.align) != len(self.columns):
                raise ValueError(f"{len(self.columns)} columns but {len(self.align)} entries in align")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("a column is named twice")
        return self


class OperationBase(Model):
    """What every operation has."""

    connection: Name = Field(description="The connection it runs on.")
    description: str = Field("", description="For people; shown to callers.")
    effect: Effect = Field("at-most-once", description="How often it may run; see the reference.")
    timeout: Seconds = Field(60.0, description="Time from start to end; then it is stopped.")
    params: dict[Name, Param] = Field(default_factory=dict, description="Parameters, in order.")
    verify: Name | None = Field(None, description="A read operation that tells whether it happened.")
    mask: tuple[str, ...] = Field((), description="Columns and outputs that never leave the site in clear.")
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="The only columns and outputs that leave the site; others are left out."
    )
    max_rows: int | None = Field(None, ge=1, description="A result with more rows is refused.")
    allow: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        description="The only callers (of `policy.trusted_signers`) that may have it run; they sign.",
    )
    version: str = Field(
        "1",
        min_length=1,
        max_length=64,
        description="Callers sign it; change it when the operation means another thing.",
    )


class SqlOperation(OperationBase):
    """A statement with named parameters."""

    sql: str = Field(description="SQL; parameters as `:name`, bound and never pasted.")
    business_errors: tuple[str, ...] = Field((), description="SQLSTATEs or native codes: the ERP said no.")


class ProcedureOperation(OperationBase):
    """A stored procedure."""

    procedure: str = Field(pattern=PROCEDURE, description="Its name; parameters are given in the order of `params`.")
    pin: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="What `check` shows of the procedure's parameters; it is refused when the database's are others.",
    )
    business_errors: tuple[str, ...] = Field((), description="SQLSTATEs or native codes: the ERP said no.")


class DropOperation(OperationBase):
    """A file written whole, or not at all."""

    drop: str = Field(min_length=1, description="The file's name, with parameters in braces; never a way out of root.")
    format: FileFormat = Field(description="What is written.")
    encoding: str = Field("utf-8", description="Any Python codec, `cp037` (EBCDIC) included.")
    overwrite: bool = Field(False, description="Whether a file of this name may be replaced.")
    max_bytes: int = Field(10 * 1_073_741_824, ge=0, description="Largest file that is written, in bytes.")


class PickOperation(OperationBase):
    """Files read; their rows come out."""

    pick: str = Field(min_length=1, description="Pattern of the names, such as `CONF*.csv`.")
    format: FileFormat = Field(description="How they are read.")
    encoding: str = Field("utf-8", description="Any Python codec.")
    then: Literal["keep", "archive", "delete"] = Field(
        "keep", description="What becomes of a file once the broker has its rows."
    )
    effect: Effect = Field("read", description="How often it may run.")


class CallOperation(OperationBase):
    """A SOAP call."""

    call: str = Field(min_length=1, description="The operation's name in the WSDL.")
    service: str | None = Field(None, description="The WSDL's service, where it has several.")
    port: str | None = Field(None, description="The service's port, where it has several.")
    business_faults: tuple[str, ...] = Field((), description="Fault codes or detail elements: the ERP said no.")
    rows: str | None = Field(
        None,
        pattern=r"^[^/\s]+(/[^/\s]+)*$",
        description="Where in the answer the elements are that repeat, such as `Orders/Order`: they become rows.",
    )


class SyntheticOperation(OperationBase):
    """No outside system: for probes and load tests."""

    synthetic: Literal["echo", "rows", "sleep", "fail"] = Field(
        description="echo: outputs = params. rows: count, width. sleep: seconds. fail: kind, message."
    )
    effect: Effect = Field("read", description="How often it may run.")


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


def _kind(value: object) -> str | None:
    if isinstance(value, OperationBase):
        return next(kind for kind, model in OPERATION_KINDS.items() if type(value) is model)
    if not isinstance(value, dict):
        return None
    kinds = [kind for kind in OPERATION_KINDS if kind in value]
    return kinds[0] if len(kinds) == 1 else None


Operation = Annotated[
    Annotated[SqlOperation, Tag("sql")]
    | Annotated[ProcedureOperation, Tag("procedure")]
    | Annotated[DropOperation, Tag("drop")]
    | Annotated[PickOperation, Tag("pick")]
    | Annotated[CallOperation, Tag("call")]
    | Annotated[SyntheticOperation, Tag("synthetic")],
    Discriminator(
        _kind,
        custom_error_type="operation_kind",
        custom_error_message=f"wants exactly one of {', '.join(OPERATION_KINDS)}",
    ),
]


# --- connections --------------------------------------------------------------------------------


class Breaker(Model):
    """When a connection is left alone."""

    failures: int = Field(5, ge=1, description="Technical failures in a row that open it.")
    cool_down: Seconds = Field(30.0, description="How long it is then left alone.")


class ConnectionBase(Model):
    """What every connection has."""

    max_concurrent: int = Field(4, ge=1, le=1000, description="Commands at once.")
    rate: PerSecond | None = Field(None, description="Commands at most, such as `600/min`; more wait.")
    windows: tuple[WindowText, ...] = Field(
        (), description="When commands run, in local time, such as `mon-fri 06:00-22:00`; others wait."
    )
    breaker: Breaker = Field(default_factory=Breaker, description="When it is left alone after failures.")
    idle: Seconds = Field(300.0, description="An unused driver process ends after this.")


class OdbcConnection(ConnectionBase):
    """A database behind an ODBC driver."""

    type: Literal["odbc"] = Field(description="The kind of connection.")
    connection_string: str = Field(description="As the driver wants it, secrets as `{secret:NAME}`.")
    dialect: Literal["auto", "postgresql", "mariadb", "sqlite", "sqlserver", "oracle", "db2", "generic"] = Field(
        "auto", description="How procedures are called; `auto` asks the driver."
    )
    login_timeout: Seconds = Field(15.0, description="Time to connect.")
    ledger: str | None = Field(
        None, pattern=PROCEDURE, description='Table for effect = "once"; `outhaul-agent ledger sql` prints it.'
    )


class FileConnection(ConnectionBase):
    """A folder."""

    type: Literal["file"] = Field(description="The kind of connection.")
    root: str = Field(min_length=1, description="The folder; nothing is written or read outside of it.")
    archive: str = Field("archive", description='Folder in root for picked files with then = "archive".')


class SoapAuth(Model):
    """How a SOAP service is to know us."""

    scheme: Literal["none", "basic", "digest", "wsse", "certificate"] = Field(description="The method.")
    username: str | None = Field(None, description="basic, digest, wsse.")
    password: str | None = Field(None, description="basic, digest, wsse: as `{secret:NAME}`; certificate: of the key.")
    digest: bool = Field(False, description="wsse: send a digest of the password instead of the password.")
    certificate: str | None = Field(None, description="certificate: PEM file with the certificate.")
    key: str | None = Field(None, description="certificate: PEM file with its key, if it is not in the same file.")

    @model_validator(mode="after")
    def _complete(self) -> SoapAuth:
        if self.scheme in ("basic", "digest", "wsse") and (self.username is None or self.password is None):
            raise ValueError(f"scheme {self.scheme} wants username and password")
        if self.scheme == "certificate" and self.certificate is None:
            raise ValueError("scheme certificate wants certificate")
        return self


class SoapConnection(ConnectionBase):
    """A SOAP service."""

    type: Literal["soap"] = Field(description="The kind of connection.")
    wsdl: str = Field(description="A local file beside this one, or a URL.")
    endpoint: str | None = Field(None, description="Where the service is, if the WSDL names another place.")
    auth: SoapAuth = Field(default_factory=lambda: SoapAuth(scheme="none"), description="How it knows us.")
    ca: str | None = Field(None, description="PEM file of the authority to trust, if not the system's.")
    max_reply_bytes: int = Field(
        16_777_216, ge=1024, description="A larger reply is refused; with `rows`, what stands beside them, and one row."
    )


class SyntheticConnection(ConnectionBase):
    """No outside system."""

    type: Literal["synthetic"] = Field(description="The kind of connection.")
    max_concurrent: int = Field(64, ge=1, le=1000, description="Commands at once.")


Connection = Annotated[
    OdbcConnection | FileConnection | SoapConnection | SyntheticConnection, Field(discriminator="type")
]


# --- the rest -----------------------------------------------------------------------------------


class Link(Model):
    """
    The way to the broker; where it is stands in the token that enrolled the agent.

    With certificates of your own there is no token: then `url`, `certificate` and `authorities` say it all.
    """

    transport: Literal["websocket"] = Field("websocket", description="How the agent reaches the broker.")
    proxy: str = Field(
        "system",
        pattern=r"^(system|none|https?://.+|socks5h?://.+)$",
        description="`system`, `none`, `http://user@proxy:3128` or `socks5h://…`; a password as `{secret:NAME}`.",
    )
    no_proxy: tuple[Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)], ...] = Field(
        (),
        description="Hosts, domains (`.example.com`) and networks (`10.0.0.0/8`) that are dialled without a proxy.",
    )
    extra_authorities: str | None = Field(
        None,
        min_length=1,
        description="PEM file of your company's authorities, for a proxy that speaks TLS (`https://…`).",
    )
    urls: tuple[Annotated[str, StringConstraints(pattern=r"^wss://[^/?#@]+/?$")], ...] = Field(
        (),
        max_length=8,
        description="Addresses of the broker, tried in turn, in place of the one in the token.",
    )
    heartbeat: Seconds = Field(
        limits.BEAT_S,
        ge=1.0,
        le=limits.BEAT_S,
        description="How long the link may be silent; less than the time after which a proxy cuts an idle connection.",
    )
    url: str | None = Field(
        None, pattern=r"^wss://[^/?#@]+/?$", description="Where the broker is, with a certificate of your own."
    )
    certificate: str | None = Field(
        None,
        min_length=1,
        description="PEM file of your own authority, instead of enrolment; read again when it changes.",
    )
    key: str | None = Field(None, min_length=1, description="PEM file with its key, if it is not in the same file.")
    passphrase: str | None = Field(None, description="Of the key, as `{secret:NAME}`.")
    authorities: str | None = Field(
        None, min_length=1, description="PEM file of the authorities that the broker's certificate is taken from."
    )

    @model_validator(mode="after")
    def _complete(self) -> Link:
        own = {"url": self.url, "certificate": self.certificate, "authorities": self.authorities}
        missing = [name for name, value in own.items() if value is None]
        given = [name for name in (*own, "key", "passphrase") if getattr(self, name) is not None]
        if given and missing:
            raise ValueError(
                f"a certificate of your own wants url, certificate and authorities; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Without one leave out {' and '.join(given)}"
            )
        return self


class SignerKey(Model):
    """A public key of a caller, for a time."""

    key: str = Field(pattern=SIGNER_KEY, description="`ed25519:` and 32 bytes in base64.")
    not_before: datetime | None = Field(None, description="What was signed before then is refused.")
    not_after: datetime | None = Field(None, description="What is signed later is refused.")


def signer_keys(value: object) -> object:
    """Turn one key, or one with its validity, into a list of keys."""
    if isinstance(value, str):
        return ({"key": value},)
    return (value,) if isinstance(value, dict) else value


SignerKeys = Annotated[
    tuple[SignerKey, ...],
    BeforeValidator(signer_keys),
    Field(min_length=1),
    # For editors: what stands in the file, not what becomes of it.
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": SIGNER_KEY},
                SignerKey.model_json_schema(),
                {"type": "array", "items": SignerKey.model_json_schema(), "minItems": 1},
            ]
        }
    ),
]


class Policy(Model):
    """Who may have what run."""

    trusted_signers: dict[Name, SignerKeys] = Field(
        default_factory=dict,
        description="Callers' public keys by name: `ed25519:BASE64`, or a list of `{ key, not_before, not_after }`.",
    )
    require_signature: tuple[Name, ...] = Field(
        (), description="Operations that run only when a trusted caller signed them."
    )
    groups: tuple[Name, ...] = Field(
        (), description="Groups of agents that this one serves; what was signed for a group runs only where it stands."
    )


class Secrets(Model):
    """Where the values of `{secret:NAME}` live."""

    store: Literal["vault", "keyring"] = Field(
        "vault",
        description="`vault`: an encrypted file in state_dir, the same for every account of this machine's agent; "
        "`keyring`: the keyring of the account that runs the agent.",
    )


class Log(Model):
    """What is told, and where: on standard error, or in a file that never grows beyond its bounds."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is told.")
    format: Literal["text", "json"] = Field("text", description="For people or for collectors.")
    file: str | None = Field(
        None, min_length=1, description="Where `run` and the service write it, in place of standard error."
    )
    file_bytes: int = Field(
        10 * 1024 * 1024, ge=10_000, le=1 << 30, description="A file of this size is set aside for a new one."
    )
    files: int = Field(5, ge=2, le=100, description="How many there are, the one that is written included.")


class TableTrigger(Model):
    """Rows that appear in a table."""

    type: Literal["table"] = Field(description="The kind of trigger.")
    connection: Name = Field(description="An odbc connection.")
    sql: str = Field(description="Rows after `:after`, in order.")
    after: dict[str, Any] = Field(description="The column that grows, and where to start.")
    every: Seconds = Field(10.0, description="How often it looks.")
    event: str = Field(description="The type of the CloudEvent.")


class FileTrigger(Model):
    """Files that appear in a folder."""

    type: Literal["file"] = Field(description="The kind of trigger.")
    connection: Name = Field(description="A file connection.")
    pattern: str = Field(description="Pattern of the names.")
    event: str = Field(description="The type of the CloudEvent.")
    then: Literal["keep", "archive", "delete"] = Field("archive", description="What becomes of the file.")


Trigger = Annotated[TableTrigger | FileTrigger, Field(discriminator="type")]


class Upgrade(Model):
    """Which packages `outhaul-agent upgrade` installs."""

    trusted_keys: tuple[Annotated[str, Field(pattern=SIGNER_KEY)], ...] = Field(
        (), description="Public keys of those who make your packages: `ed25519:` and 32 bytes in base64."
    )


class Settings(Model):
    """The whole file."""

    agent: Name = Field(description="The agent's name, as in its token.")
    state_dir: str = Field(
        min_length=1, description="Certificate, journal, spool; only the agent's account may read it."
    )
    max_running: int = Field(64, ge=1, le=1000, description="Commands at once, over all connections.")
    link: Link = Field(default_factory=Link, description="The way to the broker.")
    policy: Policy = Field(default_factory=Policy, description="Who may have what run.")
    secrets: Secrets = Field(default_factory=Secrets, description="Where secrets live.")
    log: Log = Field(default_factory=Log, description="What is told.")
    upgrade: Upgrade = Field(default_factory=Upgrade, description="Which packages are installed.")
    connections: dict[Name, Connection] = Field(default_factory=dict, description="Local systems.")
    operations: dict[Name, Operation] = Field(default_factory=dict, description="What may be run.")
    triggers: dict[Name, Trigger] = Field(default_factory=dict, description="What is watched.")
