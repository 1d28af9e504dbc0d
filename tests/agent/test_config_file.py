from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import config_errors, settings_reader
from agent.config_errors import schema
from agent.config_file import load, parse
from agent.errors import ConfigError
from agent.settings import Param, ProcedureOperation, Settings
from agent.toml_lines import line_of, lines
from config.dev.example_file import toml

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(__file__).parent / "data" / "reference.toml"
HEAD = 'agent = "plant-1"\nstate_dir = "state"\n'
SYSTEMS = """
[connections.erp]
type = "odbc"
connection_string = "Driver=SQLite"
[connections.edi]
type = "file"
root = "inbox"
[connections.finance]
type = "soap"
wsdl = "finance.wsdl"
[connections.probe]
type = "synthetic"
"""


def complaints(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "agent.toml")
    return str(caught.value)


# --- what loads ---------------------------------------------------------------------------------


def test_the_reference_example_loads() -> None:
    loaded = load(REFERENCE)
    order = loaded.settings.operations["create-sales-order"]
    assert isinstance(order, ProcedureOperation)
    assert list(order.params) == ["customer", "total", "lines", "order_no"]
    assert loaded.base_dir == REFERENCE.parent
    assert loaded.path == REFERENCE


def test_what_is_accepted_and_not_acted_on_is_told() -> None:
    remarks = load(REFERENCE).remarks
    beginnings = [
        "operations.post-invoice: verify names no operation 'find-invoice'",
        "triggers.new-shipments:",
        "triggers.stock-files:",
    ]
    assert [start for start in beginnings if not any(remark.startswith(start) for remark in remarks)] == []
    assert len(remarks) == len(beginnings)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "connections.erp.connection_string",
            '[connections.erp]\ntype = "odbc"\nconnection_string = "Driver=X;PWD=hush"\n',
        ),
        (
            "connections.f.auth.password",
            '[connections.f]\ntype = "soap"\nwsdl = "f.wsdl"\n'
            'auth = { scheme = "basic", username = "u", password = "hush" }\n',
        ),
        ("link.proxy", '[link]\nproxy = "http://u:hush@proxy:3128"\n'),
        (
            "link.passphrase",
            '[link]\nurl = "wss://b:8443"\ncertificate = "a.crt"\nauthorities = "ca.crt"\npassphrase = "hush"\n',
        ),
    ],
)
def test_a_password_in_clear_is_refused_and_not_shown(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(HEAD + text)
    with pytest.raises(
        ConfigError, match=f"agent.toml:[0-9]+: {key}: the password .*outhaul-agent secret set"
    ) as caught:
        load(path)
    assert "hush" not in str(caught.value)
    path.write_text(HEAD + text.replace("hush", "{secret:hush}"))
    assert load(path).remarks == ()


def test_a_file_of_a_windows_editor_loads(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode())
    assert load(path).settings == Settings(agent="plant-1", state_dir="state")


def test_dates_and_fractions_of_toml_are_values_of_parameters() -> None:
    settings = parse(
        HEAD + SYSTEMS + '[operations.a]\nconnection = "erp"\nsql = "SELECT :d, :e"\n'
        'params.d = { type = "date", min = 2024-01-01, default = 2024-01-02 }\n'
        'params.e = { type = "decimal", max = 1.5, default = 0.1 }\n',
        "agent.toml",
    )
    assert settings.operations["a"].params["d"].min == "2024-01-01"
    assert settings.operations["a"].params["e"] == Param(type="decimal", max=1.5, default=0.1)


def test_an_editor_with_the_schema_takes_what_loads_and_marks_an_unknown_key() -> None:
    validator = jsonschema_rs.validator_for(schema())
    raw = tomllib.loads(REFERENCE.read_text(encoding="utf-8"))
    assert [str(error) for error in validator.iter_errors(raw)] == []
    raw["operations"]["open-invoices"]["timeot"] = "30s"
    assert not validator.is_valid(raw)


# --- what does not ------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml: can't be read: .*--config FILE"):
        load(tmp_path / "agent.toml")


def test_a_byte_that_is_no_utf8_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b'agent = "a"\n# Gr\xfc\xdfe\n')
    with pytest.raises(ConfigError, match=r"agent\.toml:2: wants UTF-8, found the byte 0xfc"):
        load(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("agent = ", "agent.toml:1"),
        ('agent = "a"\nstate_dir = yes\n', "agent.toml:2:13"),
        ('agent = "a"\nagent = "b"\n', "agent.toml:2"),
        ("[link]\n[link]\n", "agent.toml:2"),
        ('agent = """\n\n', "agent.toml:3"),
        ("a = " + "[" * 5000, "agent.toml"),
    ],
)
def test_what_is_no_toml_keeps_its_line_and_column(text: str, place: str) -> None:
    assert complaints(text).startswith(f"{place}:")


def op(text: str) -> str:
    return HEAD + SYSTEMS + "[operations.a]\n" + text


def sql(text: str, rest: str = "") -> str:
    return op(f'connection = "erp"\nsql = "{text}"\n{rest}')


def param(keys: str) -> str:
    return sql(":p", f"params.p = {{ {keys} }}")


def drop(name: str, rest: str = "", form: str = 'type = "raw"') -> str:
    return op(f'connection = "edi"\ndrop = "{name}"\nformat = {{ {form} }}\n{rest}')


OP_LINE = HEAD.count("\n") + SYSTEMS.count("\n") + 1  # the line of [operations.a]

ONCE = (
    HEAD
    + SYSTEMS.replace('type = "odbc"\n', 'type = "odbc"\nledger = "outhaul_ledger"\n', 1)
    + ('[operations.a]\nconnection = "erp"\neffect = "once"\n')
)

ERRORS: list[tuple[str, str]] = [
    (sql("SELECT 1", 'effect = "once"'),
     f"agent.toml:{OP_LINE + 3}: operations.a.effect: 'once' wants a ledger: put ledger = \"outhaul_ledger\" into "
     "[connections.erp], and make the table in the database as `outhaul-agent ledger sql` prints it"),
    (ONCE + 'sql = "CALL enter(); COMMIT; CALL post()"',
     "operations.a.sql: COMMIT ends the transaction, and effect 'once' is one transaction"),
    (ONCE + 'sql = "start transaction; CALL post()"', "operations.a.sql: START TRANSACTION ends"),
    (op('connection = "fin"\ncall = "C"\neffect = "once"'),
     "operations.a.effect: 'once' is for databases and for files that are dropped, found a 'call'"),
    (ONCE.replace('"outhaul_ledger"', '"a; DROP TABLE b"') + 'sql = "SELECT 1"', "connections.erp.ledger: "),
    ("", "agent.toml:1: agent: is missing\nagent.toml:1: state_dir: is missing"),
    ('agent = "a b"\nstate_dir = "s"', "agent.toml:1: agent: wants a name of at most 64 letters"),
    (HEAD + "max_running = '8'", "agent.toml:3: max_running: wants a whole number, found '8'"),
    (HEAD + "max_running = 0", "agent.toml:3: max_running: wants at least 1, found 0"),
    (HEAD + "max_running = 1e3", "agent.toml:3: max_running: wants a whole number, found 1000.0"),
    (HEAD + "max_running = true", "agent.toml:3: max_running: wants a whole number, found true"),
    ('agent = "a"\nstate_dir = ""', "agent.toml:2: state_dir: wants at least 1 characters, found ''"),
    (HEAD + '[connections.a]\ntype = "synthetic"\nidle = inf', "connections.a.idle: wants at most 2678400, found inf"),
    (HEAD + "max_runing = 8", "agent.toml:3: max_runing: is no key of this table; did you mean 'max_running'?"),
    (HEAD + "link = 1", "agent.toml:3: link: wants a table, found 1"),
    (HEAD + '[link]\ntransport = "mqtt"', "agent.toml:4: link.transport: 'mqtt' comes with a later release"),
    (HEAD + '[link]\ntransport = "udp"', "agent.toml:4: link.transport: wants 'websocket', found 'udp'"),
    (HEAD + '[link]\nproxy = "ftp://u:hush@p"', "agent.toml:4: link.proxy: wants 'system', 'none', 'http://…'"),
    (HEAD + '[link]\nproxy = "http://u:{secret:a b}@p"', "agent.toml:4: link.proxy: wants a secret as {secret:NAME}"),
    (HEAD + '[link]\ncertificate = "a.crt"', "agent.toml:3: link: a certificate of your own wants url"),
    (HEAD + '[link]\nurl = "https://b:8443"\ncertificate = "a"\nauthorities = "b"',
     "agent.toml:4: link.url: wants 'wss://host:port', found 'https://b:8443'"),
    (HEAD + '[log]\nlevel = "loud"', "agent.toml:4: log.level: wants 'debug', 'info', 'warning' or 'error'"),
    (HEAD + '[policy]\nrequire_signature = "x"', "agent.toml:4: policy.require_signature: wants a list in [ ]"),
    (HEAD + '[policy]\nrequire_signature = [\n"x"]', "agent.toml:5: policy.require_signature[1]: no operation has"),
    (HEAD + '[policy.trusted_signers]\na = "ed25519:AAAA"',
     "agent.toml:4: policy.trusted_signers.a[1]: wants ed25519: and the 32 bytes of a public key in base64, as"),
    (HEAD + '[policy.trusted_signers]\na = ""', "agent.toml:4: policy.trusted_signers.a: wants ed25519: and the 32"),
    (HEAD + f'[policy.trusted_signers]\na = "ed25519:{"A" * 43}="',
     "wants a key that somebody made, found 'ed25519:AAAA"),
    (HEAD + f'[policy.trusted_signers.a]\nkey = "ed25519:{"B" * 42}A="\nnot_before = 2026-02-01T00:00:00Z\n'
     "not_after = 2026-01-01", "not_after"),
    (sql(":p", 'params.p = { type = "string" }\nallow = ["web-shop"]'),
     f"agent.toml:{OP_LINE + 4}: operations.a.allow[1]: policy.trusted_signers has no caller 'web-shop'; there are"),
    (HEAD + '[connections.a]\ntype = "http"', "agent.toml:3: connections.a: type 'http' comes with a later release"),
    (HEAD + '[connections.a]\ntype = "mqtt"', "agent.toml:3: connections.a: type 'mqtt' comes with a later release"),
    (HEAD + '[connections.a]\ntype = "ftp"', "connections.a: type wants odbc, file, soap or synthetic, found 'ftp'"),
    (HEAD + "[connections.a]\n", "agent.toml:3: connections.a: wants a key type: odbc, file, soap or synthetic"),
    (HEAD + '[connections]\na = "x"', "agent.toml:4: connections.a: wants a table, found 'x'"),
    (HEAD + '[connections."a b"]\ntype = "synthetic"', 'agent.toml:3: connections."a b": wants a name of at most'),
    (HEAD + '[connections.a]\ntype = "odbc"', "agent.toml:3: connections.a.connection_string: is missing"),
    (HEAD + '[connections.a]\ntype = "odbc"\nconnection_string = "Pwd={secret: x}"',
     "agent.toml:5: connections.a.connection_string: wants a secret as {secret:NAME}, found '{secret: x}'"),
    (HEAD + '[connections.a]\ntype = "synthetic"\nwindows = ["mon 06:00-07:00",\n"mon"]',
     "agent.toml:6: connections.a.windows[2]: wants a window such as 'mon-fri 06:00-22:00', found 'mon'"),
    (HEAD + '[connections.a]\ntype = "synthetic"\nrate = "fast"', "agent.toml:5: connections.a.rate: wants a rate"),
    (HEAD + '[connections.a]\ntype = "synthetic"\nrate = 0', "agent.toml:5: connections.a.rate: wants more than 0"),
    (HEAD + '[connections.a]\ntype = "synthetic"\nwsdl = "x"',
     "agent.toml:5: connections.a.wsdl: is no key of this table"),
    (HEAD + '[connections.a]\ntype = "soap"\nwsdl = "x"\nauth = { scheme = "basic", usrname = "x" }',
     "agent.toml:6: connections.a.auth.usrname: is no key of this table; did you mean 'username'?"),
    (HEAD + '[connections.a]\ntype = "soap"\nwsdl = "x"\n[connections.a.auth]\nscheme = "wsse"',
     "agent.toml:6: connections.a.auth: scheme wsse wants username and password"),
    *[(HEAD + f'[connections.a]\ntype = "file"\nroot = "{scheme}://u@h/p"',
       f"agent.toml:5: connections.a.root: {scheme} comes with a later release; wants a local folder")
      for scheme in ("sftp", "smb", "ftps")],
    *[(HEAD + f'[triggers.t]\ntype = "{kind}"', f"agent.toml:3: triggers.t: type '{kind}' comes with a later release")
      for kind in ("schedule", "mqtt")],
    (HEAD + SYSTEMS + '[triggers.t]\ntype = "file"\nconnection = "erp"\npattern = "*"\nevent = "e"',
     f"agent.toml:{OP_LINE + 2}: triggers.t.connection: a trigger of type file wants a connection of type file"),
    (op('connection = "erp"'), f"agent.toml:{OP_LINE}: operations.a: wants exactly one of sql, procedure, drop"),
    (sql("x", 'call = "y"'), "operations.a: wants exactly one of sql, procedure, drop, pick, call"),
    (op('sql = "x"'), f"agent.toml:{OP_LINE}: operations.a.connection: is missing"),
    (op('connection = "epr"\nsql = "x"'),
     f"agent.toml:{OP_LINE + 1}: operations.a.connection: no connection has the name 'epr'; did you mean 'erp'?"),
    (op('connection = "other"\nsql = "x"'), "no connection has the name 'other'; there are erp, edi, finance, probe"),
    *[(op(f'connection = "{wrong}"\n{text}'), f"an operation with '{kind}' wants a connection of type {type_}, found")
      for kind, type_, wrong, text in [
          ("sql", "odbc", "edi", 'sql = "x"'),
          ("procedure", "odbc", "probe", 'procedure = "x"'),
          ("drop", "file", "erp", 'drop = "x"\nformat = { type = "raw" }'),
          ("pick", "file", "erp", 'pick = "x"\nformat = { type = "raw" }'),
          ("call", "soap", "erp", 'call = "x"'),
          ("synthetic", "synthetic", "erp", 'synthetic = "echo"'),
      ]],
    (sql("x", 'timeout = "soon"'),
     f"agent.toml:{OP_LINE + 3}: operations.a.timeout: wants a duration such as '30s', '5min' or '1h', found 'soon'"),
    (sql("x", 'efect = "read"'), "operations.a.efect: is no key of this table; did you mean 'effect'?"),
    (sql("x", 'effect = "twice"'), "operations.a.effect: wants 'read', 'idempotent', 'once'"),
    (op('connection = "erp"\nprocedure = "x; drop"'), "operations.a.procedure: wants the name of a procedure"),
    (op('connection = "erp"\nsql = """\nSELECT :cust"""\nparams.customer = {}'),
     f"agent.toml:{OP_LINE + 2}: operations.a.sql: :cust is not declared in params; did you mean 'customer'?\n"
     f"agent.toml:{OP_LINE + 4}: operations.a.params.customer: is declared, but the SQL does not use :customer"),
    (drop("a{b}{c}", 'params.c = {}'),
     f"agent.toml:{OP_LINE + 2}: operations.a.drop: {{b}} is not declared in params"),
    (drop("a", 'params.c = {}'),
     "operations.a.params.c: is declared, but the file's name does not use {c}"),
    (drop("a{b.c}"), "operations.a.drop: wants only names in braces"),
    (drop("a{b"), "operations.a.drop: wants names in pairs of braces"),
    (drop("../{b}"), "operations.a.drop: wants the name of one file"),
    (drop("C:x"), "operations.a.drop: wants the name of one file"),
    (drop("out/{b}"), "operations.a.drop: wants the name of one file"),
    (sql("SELECT 'x"), "operations.a.sql: can't be read: line 1: a string begins"),
    (sql("SELECT ?"), "operations.a.sql: can't be read: line 1: a bare ?"),
    (op('connection = "edi"\ndrop = "{rows}"\nformat = { type = "csv" }\nparams.rows = {}'),
     "operations.a.params.rows: is the name of the file's content"),
    (drop("x", 'encoding = "utf-9"'), "operations.a.encoding: wants the name"),
    (drop("x", 'encoding = "zip"'), "operations.a.encoding: wants the name"),
    (op('connection = "edi"\ndrop = "x"\nformat = { type = "csv", delimeter = ";" }'),
     f"agent.toml:{OP_LINE + 3}: operations.a.format.delimeter: is no key of this table; did you mean 'delimiter'?"),
    (op('connection = "edi"\npick = "x"\nformat = { type = "csv", columns = ["a", "b"] }\nmask = ["a",\n"c"]'),
     f"agent.toml:{OP_LINE + 5}: operations.a.mask[2]: no column has the name 'c'; there are a, b"),
    (op('connection = "edi"\npick = "x"\nformat = { type = "raw" }\nparams.p = {}'), "params.p: is declared, but"),
    (op('connection = "probe"\nsynthetic = "echo"\neffect = "idempotent"\nverify = "a"'),
     f"agent.toml:{OP_LINE + 4}: operations.a.verify: wants an operation with effect 'read', found 'a'"),
    (param('type = "int"'), "params.p.type: wants 'string', 'integer'"),
    (param('tpye = "string"'), "params.p.tpye: is no key of this table"),
    (param('pattern = "("'), "params.p: pattern is not a regular"),
    (param(r"pattern = '(a)\1'"), "params.p.pattern: could take hours"),
    (param('max = 3'), "params.p.max: means nothing for type string"),
    (param('type = "integer", min = "a"'), "params.p.min: wants a whole number"),
    (param('type = "integer", min = 3, max = 2'), "params.p.max: wants at least min"),
    (param('type = "datetime", min = 2024-01-01T00:00:00Z, max = 2025-01-01T00:00:00'),
     "params.p.max: wants"),
    (param('min_length = 3, max_length = 2'), "params.p.max_length: wants at least"),
    (param('default = 3'), "params.p.default: wants text, found 3"),
    (param('type = "integer", enum = [1, "2"]'), "params.p.enum[2]: wants values of type"),
    (param('enum = [1.5]'), "params.p.enum[1]: wants text in quotes or a whole number"),
    (param('enum = []'), "params.p.enum: wants at least 1 in the list"),
    (sql("x", 'timeout = "1000000h"'), "operations.a.timeout: wants at most 2678400, found '1000000h'"),
    (op('connection = "probe"\nsynthetic = "echo"\nparams."a b" = {}'),
     f"agent.toml:{OP_LINE + 3}: operations.a.params.\"a b\": wants a name"),
    (param('direction = "out"'), "params.p.direction: wants 'in', found 'out'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), ERRORS)
def test_a_mistake_is_told_with_line_key_and_fix(text: str, complaint: str) -> None:
    found = complaints(text)
    assert complaint in found
    assert "hush" not in found
    assert all(line.startswith("agent.toml:") for line in found.splitlines())


def test_all_mistakes_are_told_in_the_order_of_the_file() -> None:
    text = op('connection = "erp"\nsql = ":x"\n[operations.b]\nconnection = "no"\nsql = ":y"\n')
    places = [int(line.split(":")[1]) for line in complaints(text).splitlines()]
    assert places == [OP_LINE + 2, OP_LINE + 4, OP_LINE + 5]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT :a, x::int, ':b', 'it''s :c' /* :d */ -- :e",
        "SELECT $$ :b $$, $x$ :c $x$, :a",
        r"SELECT 'it\'s :b', :a",
        "SELECT 'it\\', :a, ':b'",
        "SELECT [x:y], `z:y`, :a FROM t WHERE b = '12:30:00'",
        "SELECT /* /* :b */ :c */ :a",
        "SELECT :a # :b",
    ],
)
def test_sql_of_any_dialect_is_not_misread_as_naming_a_parameter(text: str) -> None:
    sql_text = text.replace("\\", "\\\\")
    settings = parse(op(f'connection = "erp"\nsql = """{sql_text}"""\nparams.a = {{}}'), "agent.toml")
    assert list(settings.operations["a"].params) == ["a"]


# --- lines --------------------------------------------------------------------------------------


def test_every_way_to_write_a_key_has_its_line() -> None:
    text = '''a = 1 # [not.a.table]
b . c = "x # = [y]"

[t."q.r".'s t']
z = [1, # one
  2, {k = """
  m = 1
  \\""" x"""", n.o = 3}, [
    4,
  ]]
\'lit\' = \'\'\'
[no]\'\'\'
[[list]]
x = 1979-05-27 07:32:00
[list.sub]
y = 2.5e3
[[list]]
[[list.deep]]
p = ""
[b.d]
'''
    raw = tomllib.loads(text)
    expected: dict[tuple[str | int, ...], int] = {
        ("a",): 1, ("b",): 2, ("b", "c"): 2, ("t",): 4, ("t", "q.r"): 4, ("t", "q.r", "s t"): 4,
        ("t", "q.r", "s t", "z"): 5, ("t", "q.r", "s t", "z", 0): 5, ("t", "q.r", "s t", "z", 1): 6,
        ("t", "q.r", "s t", "z", 2): 6, ("t", "q.r", "s t", "z", 2, "k"): 6, ("t", "q.r", "s t", "z", 2, "n"): 8,
        ("t", "q.r", "s t", "z", 2, "n", "o"): 8, ("t", "q.r", "s t", "z", 3): 8, ("t", "q.r", "s t", "z", 3, 0): 9,
        ("t", "q.r", "s t", "lit"): 11, ("list",): 13, ("list", 0): 13, ("list", 0, "x"): 14, ("list", 0, "sub"): 15,
        ("list", 0, "sub", "y"): 16, ("list", 1): 17, ("list", 1, "deep"): 18, ("list", 1, "deep", 0): 18,
        ("list", 1, "deep", 0, "p"): 19, ("b", "d"): 20,
    }  # fmt: skip
    assert dict(lines(text)) == expected
    assert set(lines(text)) == set(paths(raw))


def test_what_stands_nowhere_has_the_line_of_what_is_around_it() -> None:
    known = lines("\n[a]\n\nb = 1\n")
    assert line_of(("a", "c", 3), known) == 2
    assert line_of(("a", "b", "c"), known) == 4
    assert line_of(("x",), known) == 1


def paths(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in what ``tomllib`` read."""
    if isinstance(value, dict):
        children: list[tuple[str | int, Any]] = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return []
    return [found for key, child in children for found in [(*place, key), *paths(child, (*place, key))]]


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["true", "2024-01-01", "07:32:00", "1979-05-27T07:32:00Z", "1e3", "inf", "0xff", "''"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8).map(toml),
    st.text("ab\n\"#=[]{},' ", max_size=10).map(lambda text: '"""\n' + text.replace('"', '\\"') + '"""'),
    st.text('ab\n"#=[]{}, ', max_size=10).map(lambda text: f"'''{text}'''"),
)
keys = st.one_of(st.text("abc-_1", min_size=1, max_size=3), st.text('a.#= "]é', max_size=3).map(toml))
written_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[ # here\n{','.join(items)}\n]"),
        st.dictionaries(keys, inner, max_size=2).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=5,
)
statements = st.one_of(
    st.builds("{} = {}".format, keys, written_values),
    st.builds("{} . {}={} # x = 1".format, keys, keys, written_values),
    st.builds("[{}]".format, keys),
    st.builds("[{}.{}]".format, keys, keys),
    st.builds("[[{}]]".format, keys),
    st.just("\n# [x]"),
)


@given(st.lists(statements, max_size=8))
def test_every_place_that_tomllib_reads_has_the_line_of_its_statement(written: list[str]) -> None:
    kept: list[str] = []
    for statement in written:
        try:
            tomllib.loads("\n".join([*kept, statement]))
        except tomllib.TOMLDecodeError:
            continue
        kept.append(statement)
    text = "\n".join(kept)
    known = lines(text)
    assert set(known) == set(paths(tomllib.loads(text)))
    first = 1
    for statement in kept:
        last = first + statement.count("\n")
        before = set(paths(tomllib.loads("\n".join(kept[: kept.index(statement)]))))
        if kept.count(statement) == 1:
            now = set(paths(tomllib.loads("\n".join(kept[: kept.index(statement) + 1]))))
            assert all(first <= known[place] <= last for place in now - before)
        first = last + 1


# --- the two readers of a file agree ------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text, _ in ERRORS])
def test_pydantic_takes_what_the_agent_reads_without_it_and_no_more(text: str) -> None:
    try:
        raw = tomllib.loads(text)
    except ValueError:
        return
    try:
        settings_reader.read(raw, Settings)
    except ValueError:
        assert config_errors.problems(raw)
    else:
        assert config_errors.problems(raw) == []


@pytest.mark.parametrize("file", [REFERENCE, ROOT / "config" / "agent.example.toml"], ids=lambda file: file.name)
def test_a_file_says_the_same_to_both(file: Path) -> None:
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    assert config_errors.checked(raw) == settings_reader.read(raw, Settings) == load(file).settings


def test_reading_a_file_and_what_the_agent_runs_on_need_no_heavy_library() -> None:
    heavy = ("pydantic", "pydantic_core", "cryptography", "keyring", "zeep", "lxml", "rich", "pyodbc")
    code = (
        "import sys, pathlib; from agent import app, config_file; "
        f"config_file.load(pathlib.Path({str(REFERENCE)!r})); print(sorted({{*{heavy}}} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
