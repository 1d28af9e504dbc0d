"""
Two tenants of one broker, and every route of its OpenAPI document crossed.

``victim`` has one of everything; ``thief`` has a good key with all scopes of a tenant of its own. Whatever the thief
asks with the victim's names and ids is answered, byte for byte, as it would be with names and ids that are nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from cloud_broker.store.sqlite import SqliteStore
from tests.cloud_broker.api.broker import Broker as PlayedBroker
from tests.cloud_broker.api.broker import running
from tests.cloud_broker.api.dead import failed
from tests.whole.site import AgentSite, Broker, Caller

CANARY: Final = "zq7victim"  # in everything of the victim's that has a name
SITE: Final = f"""
[connections.{CANARY}-erp]
type = "synthetic"
max_concurrent = 8
[operations.{CANARY}-echo]
connection = "{CANARY}-erp"
synthetic = "echo"
[operations.{CANARY}-rows]
connection = "{CANARY}-erp"
synthetic = "rows"
[operations.{CANARY}-post]
connection = "{CANARY}-erp"
synthetic = "fail"
effect = "at-most-once"
[operations.{CANARY}-sleep]
connection = "{CANARY}-erp"
synthetic = "sleep"
"""
METHODS: Final = ("get", "post", "put", "delete", "patch")
# Of no tenant's things: anybody may see them, without a key even, or they tell who asks of nobody else.
PUBLIC: Final = re.compile(r"^/(healthz|readyz|metrics|openapi\.json|\.well-known/.*|ui/.*)$")
_NEW_ID: Final = re.compile(r"\b[a-z]{3,4}_[0-9a-z]{26}\b")
_NEW: Final = re.compile(r'"(id|created_at|expires_at|correlation_id|token|key|at|finished_at|before)":\s*"[^"]*"')
VARYING: Final = {"date"}  # headers that differ between any two answers


@dataclass(frozen=True)
class Scene:
    """Both tenants, and what the victim has."""

    broker: Broker
    victim: Caller
    thief: Caller
    onlooker: Caller
    ids: dict[str, str]
    document: dict[str, Any]

    def nobodys(self) -> dict[str, str]:
        """Return ids of the same shape that are nobody's."""
        return {name: _other(value) for name, value in self.ids.items()}


def _other(value: str) -> str:
    """Return another id of the same length and alphabet, which is nobody's."""
    swapped = value.replace(CANARY, CANARY[::-1])
    if swapped != value:
        return swapped
    head, tail = value[:-8], value[-8:]
    return head + "".join("0123456789abcdef"[(int(c, 16) + 7) % 16] if c in "0123456789abcdef" else c for c in tail)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A broker with both tenants."""
    folder = tmp_path_factory.mktemp("tenants")
    broker = Broker(folder / "broker")
    with broker.file.open("a", encoding="utf-8") as file:
        file.write('[approvals]\nrequired = ["resolve"]\n')
    assert broker.cli("init").exit_code == 0
    victim, thief, onlooker = (broker.tenant(name) for name in (CANARY, "thief", "onlooker"))
    site = AgentSite(folder / "site", SITE, agent=f"{CANARY}-plant")
    broker.start()
    try:
        site.enrol(broker.token(CANARY, f"{CANARY}-plant", "--group", f"{CANARY}-group"))
        site.start(victim)
        owned = broker.facts("key", "create", "--tenant", CANARY, "--scope", "*", "--owner", CANARY)["key"]
        yield Scene(broker, victim, thief, onlooker, _everything(victim, owned), broker_document(broker))
    finally:
        site.program.stop()
        broker.program.stop()
        for caller in (victim, thief, onlooker):
            caller.close()


def broker_document(broker: Broker) -> dict[str, Any]:
    """Return the OpenAPI document."""
    found: dict[str, Any] = httpx2.get(f"{broker.url}/openapi.json").json()
    return found


def _everything(victim: Caller, owned: str) -> dict[str, str]:
    """Have one of everything, and return the ids by the names of the routes' parameters."""
    agent = f"{CANARY}-plant"
    more = {"agent": agent, "correlation_id": f"{CANARY}-order", "ordering_key": f"{CANARY}-key"}
    done = victim.run(f"{CANARY}-rows", {"count": 3}, headers={"Idempotency-Key": f"{CANARY}-once"}, **more)
    victim.run(f"{CANARY}-echo", {"text": CANARY}, **more)
    doubt = victim.run(f"{CANARY}-post", {"kind": "unknown", "message": CANARY}, **more)
    dead = victim.run(f"{CANARY}-post", {"kind": "failed", "message": CANARY}, **more)
    victim.submit(f"{CANARY}-sleep", {"seconds": 600}, **more)
    assert doubt["state"] == "in_doubt", doubt
    assert dead["state"] == "failed", dead
    run = victim.post("/v1/dead-letters/replay", json={"filter": {"state": "failed"}, "max": 1})
    assert run.status_code in (200, 201, 202), run.text
    key = victim.post("/v1/keys", json={"scopes": ["commands:read"]}).json()
    # Where two people are wanted, a key with an owner asks.
    approval = victim.post(
        f"/v1/commands/{doubt['id']}/resolve",
        json={"found": "happened", "note": CANARY},
        headers={"Authorization": f"Bearer {owned}"},
    )
    assert approval.status_code == 202, approval.text
    return {
        "approval_id": approval.json()["id"],
        "command_id": doubt["id"],
        "name": agent,
        "agent": agent,
        "group": f"{CANARY}-group",
        "operation": f"{CANARY}-echo",
        "correlation_id": f"{CANARY}-order",
        "key_id": key["id"],
        "run_id": run.json()["id"],
        "done": done["id"],
    }


def routes(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path and description of every route that is about a tenant's things."""
    return [
        (method, path, operation)
        for path, operations in document["paths"].items()
        if not PUBLIC.match(path)
        for method, operation in operations.items()
        if method in METHODS
    ]


def filled(path: str, ids: dict[str, str]) -> str:
    """Return a path with ids in it; a parameter that this test has not heard of is a mistake of the test."""
    return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], path)


def example(operation: dict[str, Any], ids: dict[str, str]) -> Any:
    """Return a body as the document shows it, about those ids."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    shown: Any = content.get("example") or next(
        (one["value"] for one in content.get("examples", {}).values()), {} if content else None
    )
    if isinstance(shown, dict):
        shown = {name: ids.get(name, value) if isinstance(value, str) else value for name, value in shown.items()}
    return shown


def ask(caller: Caller, method: str, path: str, operation: dict[str, Any], ids: dict[str, str]) -> httpx2.Response:
    """Ask a route about those ids."""
    known = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    query = {name: ids[name] for name in known if name in ids}
    return caller.request(method, filled(path, ids), json=example(operation, ids), params=query)


def told(answer: httpx2.Response, ids: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """Return all that an answer tells, with a mark where it repeats what was asked."""
    body = answer.text
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in VARYING}
    for value in sorted(ids.values(), key=len, reverse=True):
        body = body.replace(value, "<asked>")
        headers = {name: text.replace(value, "<asked>") for name, text in headers.items()}
    # What was made just now, for the thief itself.
    body = _NEW_ID.sub("<new>", _NEW.sub(r'"\1":"<new>"', body))
    headers.pop("location", None)
    return answer.status_code, headers, body


def test_every_route_answers_for_the_victims_ids_as_for_nobodys(scene: Scene) -> None:
    before = _as_the_victim_sees(scene)
    differences = []
    for method, path, operation in routes(scene.document):
        # Who did nothing has lists that stay as they are.
        asker = scene.onlooker if method == "get" else scene.thief
        theirs = ask(asker, method, path, operation, scene.ids)
        unknown = ask(asker, method, path, operation, scene.nobodys())
        if told(theirs, scene.ids) != told(unknown, scene.nobodys()):
            differences.append(f"{method} {path}")
        # A token is for an agent of one's own, whatever it is called.
        if "{" in path and not path.endswith("/tokens"):
            assert theirs.status_code in (403, 404, 409, 400, 422), (method, path, theirs.text)
    assert differences == []
    assert _as_the_victim_sees(scene) == before


def _as_the_victim_sees(scene: Scene) -> dict[str, Any]:
    """Return what the thief must not have changed."""
    ids = scene.ids
    agent = scene.victim.get(f"/v1/agents/{ids['name']}").json()
    agent.pop("last_seen_at", None)
    keys = scene.victim.get("/v1/keys").json()
    for key in keys["items"]:
        key.pop("last_used_at", None)
    return {
        "agent": agent,
        "keys": keys,
        "command": scene.victim.get(f"/v1/commands/{ids['command_id']}").json(),
        "timeline": scene.victim.get(f"/v1/commands/{ids['command_id']}/timeline").json(),
        "rows": scene.victim.get(f"/v1/commands/{ids['done']}/rows").text,
    }


def test_no_list_counts_or_shows_anything_of_another_tenant(scene: Scene) -> None:
    for method, path, operation in routes(scene.document):
        if method == "get" and "{" not in path:
            answer = scene.onlooker.get(path)  # which did nothing yet
            assert CANARY not in answer.text, path
            assert CANARY not in str(answer.headers), path
            listed = answer.json() if "json" in answer.headers.get("content-type", "") else {}
            if not path.startswith(("/v1/keys", "/v1/audit", "/v1/tenants")):
                assert listed.get("items") in ([], None), (path, operation.get("summary"))


def test_a_cursor_of_another_tenant_leads_nowhere(scene: Scene) -> None:
    page = scene.victim.get("/v1/commands", params={"limit": 1}).json()
    assert page["next"]
    answer = scene.thief.get("/v1/commands", params={"cursor": page["next"]})
    assert answer.json()["items"] == []


def test_the_header_that_names_a_tenant_opens_no_door(scene: Scene) -> None:
    for name in (CANARY, CANARY[::-1], "THIEF", "thief,zq7victim"):
        answer = scene.thief.get("/v1/commands", headers={"Outhaul-Tenant": name})
        assert answer.status_code == 403, name
        assert answer.text.replace(name, "<asked>") == scene.thief.get(
            "/v1/commands", headers={"Outhaul-Tenant": "nobody"}
        ).text.replace("nobody", "<asked>")


def test_the_same_idempotency_key_means_another_command_to_another_tenant(scene: Scene) -> None:
    answer = scene.thief.submit("echo", {}, headers={"Idempotency-Key": f"{CANARY}-once"})
    unknown = scene.thief.submit("echo", {}, headers={"Idempotency-Key": "nobody-once"})
    assert (answer.status_code, answer.json()) == (unknown.status_code, unknown.json())
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer ohk_000000000000_" + "0" * 64, "Basic eDp5", "Bearer x.y.z"]
)
def test_without_a_good_credential_every_route_says_the_same_of_everything(scene: Scene, credential: str) -> None:
    with Caller(scene.broker.url, "none") as nobody:
        nobody.headers["Authorization"] = credential
        for method, path, operation in routes(scene.document):
            theirs = ask(nobody, method, path, operation, scene.ids)
            unknown = ask(nobody, method, path, operation, scene.nobodys())
            assert theirs.status_code in (401, 429), (method, path, theirs.text)
            # After some wrong ones each address is told to wait, whatever it asks.
            if unknown.status_code == theirs.status_code:
                assert told(theirs, scene.ids)[2] == told(unknown, scene.nobodys())[2]
            assert CANARY not in theirs.text


# --- the class of time that an answer takes --------------------------------------------------------------


@pytest.fixture
async def played(tmp_path: Path) -> Any:
    """A server whose store is in this process."""
    async with running(tmp_path) as broker:
        yield broker


@pytest.mark.parametrize("path", ["", "/timeline", "/rows"])
async def test_an_answer_about_a_foreign_command_takes_the_same_steps(
    played: PlayedBroker, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    # Whatever else takes time here: what is known of the thief's key is known for both answers.
    monkeypatch.setattr("cloud_broker.callers.credentials.KEPT_S", 3600.0)
    theirs = await failed(played)
    steps: list[str] = []
    for name in ("_one", "_all", "_change", "_write", "_write_one", "_read_list", "_send", "_send_one"):
        original = getattr(SqliteStore, name)

        def noted(self: Any, *args: Any, _name: str = name, _original: Any = original, **bound: Any) -> Any:
            steps.append(f"{_name} {[word for word in args if isinstance(word, str)]}")
            return _original(self, *args, **bound)

        monkeypatch.setattr(SqliteStore, name, noted)
    async with played.client(await played.key("other")) as thief:
        await thief.get("/v1/commands")  # the first use of a key is noted
        taken = []
        for command_id in (theirs.id, _other(theirs.id)):
            steps.clear()
            assert (await thief.get(f"/v1/commands/{command_id}{path}")).status_code == 404
            taken.append(list(steps))
    assert taken[0] == taken[1] != []


def test_the_scene_has_one_of_everything(scene: Scene) -> None:
    asked = {name for _, path, _ in routes(scene.document) for name in re.findall(r"\{(\w+)\}", path)}
    assert asked <= set(scene.ids), "a new kind of id: let the victim have one"
    assert scene.victim.get(f"/v1/commands/{scene.ids['command_id']}").json()["state"] == "in_doubt"
