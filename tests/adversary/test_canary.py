"""
Canaries: one of every kind of secret, a whole scenario with its failures, and then a look at all that was written,
printed, sent, and left behind by crashes. None of them may be anywhere in clear.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import secrets as chance
import signal
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agent import config_file
from agent.identity import held as identity
from agent.identity import keys
from agent.secrets import open_store
from config.dev.databases import Postgres, free_port
from config.dev.demo.programs import Answer, run
from config.dev.finance import finance_service
from config.dev.proxies import http_proxy
from tests.adversary.relay import Relay, running
from tests.waiting import until_so
from tests.whole.site import AgentSite, Broker, Caller, children

pytestmark = pytest.mark.timeout(400)  # the first test plays the whole scenario

SITE = """
[link]
proxy = "http://plant:{{secret:proxy}}@127.0.0.1:{proxy}"
[log]
level = "debug"
format = "{format}"

[connections.erp]
type = "odbc"
connection_string = "{odbc}"
[connections.wrong]
type = "odbc"
connection_string = "{wrong}"
[operations.look]
connection = "erp"
sql = "SELECT :text::text AS text"
effect = "read"
params = {{ text = {{ type = "string" }} }}
[operations.nap]
connection = "erp"
sql = "SELECT pg_sleep(:seconds)"
effect = "at-most-once"
params = {{ seconds = {{ type = "number" }} }}
[operations.broken]
connection = "erp"
sql = "SELECT 1 / 0"
effect = "at-most-once"
[operations.no-entry]
connection = "wrong"
sql = "SELECT 1"
effect = "read"

[connections.finance]
type = "soap"
wsdl = "{wsdl}"
endpoint = "{endpoint}"
auth = {{ scheme = "wsse", username = "svc", password = "{{secret:finance}}" }}
[connections.finance-wrong]
type = "soap"
wsdl = "{wsdl}"
endpoint = "{endpoint}"
auth = {{ scheme = "wsse", username = "svc", password = "{{secret:finance-wrong}}" }}
[operations.find-invoice]
connection = "finance"
call = "FindInvoice"
effect = "read"
[operations.find-wrong]
connection = "finance-wrong"
call = "FindInvoice"
effect = "read"

[connections.missing]
type = "odbc"
connection_string = "Driver={{PostgreSQL Unicode}};Server=127.0.0.1;Pwd={{secret:never-set}}"
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.signed]
connection = "probe"
synthetic = "echo"
allow = ["shop"]
[policy.trusted_signers]
{signer}
"""


def word() -> str:
    """Return a value that stands nowhere by chance, with characters that must be quoted here and there."""
    return f"canary-{chance.token_hex(12)};}}+ü"


@dataclass
class Scene:
    """
    What came of the scenario.

    Attributes:
        canaries: by kind, the forms in which each would be recognised, and the files that may have it in clear.
        told: what was printed, by what was run.
        processes: command lines and environments of our programs, as any account, or root, could see them.
        folders: of both programs.
        relay: what went over the link.
    """

    folders: list[Path]
    relay: Relay
    canaries: dict[str, tuple[list[bytes], list[Path]]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    processes: set[bytes] = field(default_factory=set)

    def kind(self, name: str, value: str | bytes, *files: Path) -> None:
        raw = value.encode() if isinstance(value, str) else value
        forms = {raw, base64.b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"="), raw.hex().encode()}
        if isinstance(value, str):
            quoted = json.dumps(value)[1:-1]
            more = (
                quoted,
                json.dumps(value, ensure_ascii=False)[1:-1],
                quote(value, safe=""),
                value.replace("}", "}}"),
            )
            forms |= {form.encode() for form in more} | {value.encode("utf-16-le"), value.encode("latin-1")}
        self.canaries[name] = (sorted(forms), list(files))

    def note(self, what: str, answer: Answer) -> Answer:
        self.told[f"{what} ({len(self.told)})"] = answer.out + answer.err
        return answer


@contextlib.contextmanager
def watched(scene: Scene) -> Iterator[None]:
    """Look at command lines and environments of our programs all the while."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            for process in Path("/proc").iterdir():
                if not process.name.isdecimal():
                    continue
                with contextlib.suppress(OSError):
                    words = (process / "cmdline").read_bytes()
                    if b"outhaul" in words or b"agent.connectors.worker" in words:
                        scene.processes.add(words)
                        scene.processes.add((process / "environ").read_bytes())

    thread = threading.Thread(target=look, name="look at the process list")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def dumps_wanted() -> Iterator[None]:
    """Let whatever crashes leave its memory behind, as far as it is up to the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("canary")
    (folder / "outside").mkdir()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        stack.enter_context(dumps_wanted())
        yield _played(folder, postgres, stack, patch)


def _played(folder: Path, postgres: Postgres, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Scene:
    served, relay_port = Broker(folder / "broker"), free_port()
    served.file.write_text(served.file.read_text() + f'public_url = "wss://127.0.0.1:{relay_port}"\n')
    site = AgentSite(folder / "agent", "")
    state = site.folder / "state"

    def of_broker() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate,) = (served.folder / "data").rglob("server.crt")
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return context

    def of_agent(path: str) -> ssl.SSLContext:
        if "enrol" in path:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        loaded = config_file.load(site.file)
        return identity.client_context(identity.load(state, open_store(loaded.settings, loaded.base_dir)))

    scene = Scene([served.folder, site.folder], Relay(of_broker, of_agent, served.link_port))
    stack.enter_context(watched(scene))

    # --- one of every kind ------------------------------------------------------------------------
    values = {name: word() for name in ("erp", "wrong", "finance", "finance-wrong", "proxy", "sftp", "smb", "clear")}
    values["proxy"] = f"canary-{chance.token_hex(12)}"  # tinyproxy's own file takes no more
    for name, value in values.items():
        scene.kind(f"password {name}", value)
    master = chance.token_hex(16)
    scene.kind("vault master key", master)
    credentials = folder / "outside" / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "outhaul-vault.key").write_text(master)
    patch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    role = f"canary{chance.token_hex(4)}"
    password = values["erp"].replace("'", "''")
    postgres.execute_script(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    finance = stack.enter_context(finance_service(auth="wsse", username="svc", password=values["finance"]))
    proxy = stack.enter_context(http_proxy(folder / "outside", user="plant", password=values["proxy"]))

    outside = {"XDG_CONFIG_HOME": str(folder / "outside" / "home"), "HOME": str(folder / "outside")}
    phrase, key_file = f"canary-{chance.token_hex(12)}", folder / "outside" / "shop.key"
    scene.kind("passphrase of a caller's key", phrase)
    made = run(
        ["outhaul", "keygen", "shop", "--out", str(key_file), "--json"], stdin=f"{phrase}\n", environment=outside
    )
    signer = json.loads(scene.note("keygen", made).out)["line"]
    _key(scene, "private key of a caller", load_pem_private_key(key_file.read_bytes(), phrase.encode()))

    def text(form: str) -> str:
        return SITE.format(
            signer=signer,
            proxy=proxy.port,
            format=form,
            odbc=postgres.odbc(user=role, password="{secret:erp}"),
            wrong=postgres.odbc(user=role, password="{secret:wrong}"),
            wsdl=finance.wsdl,
            endpoint=finance.url,
        )

    # --- set up -----------------------------------------------------------------------------------
    init = served.facts("init")
    scene.kind("API key of the administrator", init["admin_key"])
    served.start()
    stack.callback(served.program.stop)
    assert served.cli("tenant", "create", "acme").exit_code == 0
    key = served.facts("key", "create", "--tenant", "acme", "--scope", "*")["key"]
    scene.kind("API key", key)
    caller = stack.enter_context(Caller(served.url, key))
    token = served.token("acme", "plant-1")
    scene.kind("token", token)
    stack.enter_context(running(scene.relay, relay_port))
    site.write(text("json"))
    assert scene.note("secret set", site.cli("secret", "set", "erp", stdin=values["erp"])).exit_code == 0
    loaded = config_file.load(site.file)
    for name in values.keys() - {"erp", "clear"}:
        open_store(loaded.settings, loaded.base_dir).set(name, values[name])
    assert scene.note("enroll", site.cli("enroll", "--token", "-", stdin=f"{token}\n")).exit_code == 0
    scene.note("enroll with rubbish", site.cli("enroll", "--token", "-", "--force", stdin=f"{token[:-7]}\n"))
    site.start(caller)
    stack.callback(site.program.stop)
    _private_keys(scene, site, served)

    # --- at work, and in trouble ------------------------------------------------------------------
    scene.note("login", run(["outhaul", "login", "--url", served.url], stdin=f"{key}\n", environment=outside))
    words = [
        "outhaul",
        "call",
        "plant-1",
        "signed",
        "a=1",
        "--sign-with",
        str(key_file),
        "--idempotency-key",
        "k",
        "--json",
    ]
    signed = scene.note("call", run(words, stdin=f"{phrase}\n", environment=outside))
    assert signed.exit_code == 0, signed.text
    scene.note("outhaul commands", run(["outhaul", "commands", "--json"], environment=outside))
    assert caller.run("look", {"text": "x"})["state"] == "succeeded"
    assert caller.run("find-invoice", {"invoiceNo": "IN1"})["state"] in ("succeeded", "rejected")
    for operation, params in (
        ("broken", {}),
        ("no-entry", {}),
        ("find-wrong", {"invoiceNo": "IN1"}),
        ("look", {"text": 7}),
        ("nowhere", {}),
    ):
        caller.submit(operation, params, ttl=5, headers={"Prefer": "wait=10"})
    _crashes(caller, site)
    site.kill()
    site.write(text("text"))
    site.start(caller)
    _asked(scene, caller, site, served)
    os.kill(site.program.pid, signal.SIGSEGV)
    until_so(lambda: not site.program.running, 60.0)
    clear = values["clear"].replace('"', "")
    site.write(text("text") + f'\n[connections.bad]\ntype = "odbc"\nconnection_string = "Driver=x;Pwd={clear}"\n')
    assert scene.note("check of a file with a password", site.cli("check", "--json")).exit_code == 2
    (site.folder / "agent.toml").unlink()  # it has what a careless operator put there
    _strangers(scene, served)
    return scene


def _private_keys(scene: Scene, site: AgentSite, served: Broker) -> None:
    loaded = config_file.load(site.file)
    store = open_store(loaded.settings, loaded.base_dir)
    state = site.folder / "state"
    scene.kind("passphrase of the identity", store.get(identity.PASSPHRASE) or "")
    own = identity.load(state, store)
    key = load_pem_private_key(own.key.read_bytes(), own.passphrase.encode())
    _key(scene, "private key of the agent's certificate", key)
    pairs = keys.open_keys(state, store)
    _key(scene, "private key that signs results", pairs.sign)
    _key(scene, "private key that unseals", pairs.seal)
    for number, path in enumerate(sorted((served.folder / "data").rglob("*.key"))):
        # The broker must sign and serve without anybody there: these stand in their own file, and nowhere else.
        assert path.stat().st_mode & 0o077 == 0, path
        _key(scene, f"private key of the broker {number}", load_pem_private_key(path.read_bytes(), None), path)


def _key(scene: Scene, name: str, key: Any, *files: Path) -> None:
    if isinstance(key, EllipticCurvePrivateKey):
        number = key.private_numbers().private_value.to_bytes(32, "big")
    else:
        number = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    scene.kind(name, number, *files)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    scene.kind(f"{name}, PEM", pem.splitlines()[1], *files)


def _runs(caller: Caller, command_id: str) -> bool:
    return bool(caller.get(f"/v1/commands/{command_id}").json()["state"] == "running")


def _crashes(caller: Caller, site: AgentSite) -> None:
    """Let drivers die in the middle of a command, in each way."""
    for number in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV):
        command = caller.submit("nap", {"seconds": 30}).json()
        until_so(partial(_runs, caller, command["id"]), 60.0)
        for driver in children(site.program.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver, number)
        assert caller.final(command)["state"] == "in_doubt"


def _asked(scene: Scene, caller: Caller, site: AgentSite, served: Broker) -> None:
    """Ask for all that either side shows."""
    for words in (
        ("check", "--json"),
        ("operations", "--json"),
        ("secret", "list", "--json"),
        ("status",),
        ("journal", "list", "--json"),
        ("journal", "verify", "--json"),
        ("identity", "--json"),
    ):
        scene.note(" ".join(words), site.cli(*words))
    doubtful = next(item["id"] for item in caller.get("/v1/dead-letters").json()["items"] if item["operation"] == "nap")
    scene.note("journal show", site.cli("journal", "show", doubtful, "--json"))
    for words in (("key", "list"), ("agent", "list"), ("verify-audit",)):
        scene.note(f"outhaul-broker {words[0]}", served.cli(*words, "--json"))
    for path in ("/v1/commands", "/v1/agents", "/v1/agents/plant-1", "/v1/agents/plant-1/operations", "/v1/audit"):
        scene.told[f"GET {path} ({len(scene.told)})"] = caller.get(path).text
    for item in caller.get("/v1/commands").json()["items"]:
        for route in ("", "/timeline", "/rows"):
            text = caller.get(f"/v1/commands/{item['id']}{route}").text
            scene.told[f"GET {item['id']}{route} ({len(scene.told)})"] = text
    for path in ("/metrics", "/readyz", "/openapi.json"):
        scene.told[f"GET {path} ({len(scene.told)})"] = httpx2.get(f"{served.url}{path}", timeout=20).text


def _strangers(scene: Scene, served: Broker) -> None:
    """Come with credentials that are none, which must not be written down either."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "RS256"}, {})
    ]
    jwt, wrong = ".".join([*parts, f"canary{chance.token_hex(24)}"]), f"ohk_{chance.token_urlsafe(32)}"
    scene.kind("JWT", jwt)
    scene.kind("a wrong API key", wrong)
    for credential in (jwt, wrong):
        for path in ("/v1/commands", f"/v1/agents?cursor={credential}"):
            answer = httpx2.get(f"{served.url}{path}", headers={"Authorization": f"Bearer {credential}"}, timeout=20)
            assert answer.status_code in (400, 401)
            scene.told[f"401 {len(scene.told)}"] = answer.text + str(answer.headers)


# --- the look --------------------------------------------------------------------------------------


def leaks(scene: Scene, data: bytes, place: Path | None = None) -> list[str]:
    """Return the kinds of secrets that stand in ``data``, and may not, at ``place``."""
    return [
        name
        for name, (forms, files) in scene.canaries.items()
        if any(form in data for form in forms) and place not in files
    ]


def test_the_scenario_has_a_canary_of_every_kind_and_its_failures(scene: Scene) -> None:
    kinds = " ".join(scene.canaries)
    for kind in (
        "password erp",
        "finance",
        "proxy",
        "sftp",
        "smb",
        "master",
        "passphrase",
        "token",
        "API key",
        "JWT",
        "caller",
    ):
        assert kind in kinds
    assert sum("private key of the broker" in name for name in scene.canaries) >= 2
    told = "\n".join(scene.told.values())
    assert "in_doubt" in told
    assert "password authentication failed" in told, "the database refused the wrong password"
    assert {said.path.partition("?")[0] for said in scene.relay.heard} >= {"/enrol", "/link"}
    assert any(b"Completed" in said.clear() for said in scene.relay.heard), "the recording is of what was said"
    assert any(b"agent.connectors.worker" in words for words in scene.processes)


def test_no_secret_was_printed_or_answered(scene: Scene) -> None:
    found = {what: kinds for what, text in scene.told.items() if (kinds := leaks(scene, text.encode()))}
    assert found == {}


def test_no_secret_is_in_a_file_of_either_program_in_clear(scene: Scene) -> None:
    files = [path for folder in scene.folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "agent.log" for path in files)
    assert any(path.name == "secrets.vault" for path in files)
    found = {str(path): kinds for path in files if (kinds := leaks(scene, path.read_bytes(), path))}
    assert found == {}


def test_no_secret_went_over_the_link(scene: Scene) -> None:
    for said in scene.relay.heard:
        found = leaks(scene, said.clear())
        # A token is there to be shown, once, to the broker that made it.
        assert found == [] or (found == ["token"] and said.path.startswith("/enrol")), said.path


def test_no_secret_was_in_a_command_line_or_an_environment(scene: Scene) -> None:
    assert {kind for seen in tuple(scene.processes) for kind in leaks(scene, seen)} == set()


def test_no_crash_left_memory_behind(scene: Scene) -> None:
    there = [path for folder in scene.folders for path in folder.rglob("*core*") if path.is_file()]
    assert [path for path in there if path.name.startswith("core")] == []


def test_a_canary_would_be_found(scene: Scene) -> None:
    for name, (forms, _) in scene.canaries.items():
        for form in forms:
            assert name in leaks(scene, b"before " + form + b" after")
