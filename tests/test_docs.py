"""
That the documentation exists and is true: every word of the outside has its place, and what stands there works.

Whether pages made from the code are stale is asked in ``tests/config/test_reference.py``.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import pytest

import agent.cli
import agent.errors
import cloud_broker.cli
import cloud_broker.client.cli
import cloud_broker.client.errors
import cloud_broker.errors
import protocol.errors
from agent import catalogue, config_file
from agent import settings as agent_settings
from agent.settings_reader import hints
from cloud_broker.api.app import described
from cloud_broker.settings import LinkSettings as BrokerLink
from cloud_broker.settings import Settings as BrokerSettings
from config.dev import codes, programs, wire
from config.dev.agent_example import toml
from config.dev.reference import BROKER_FILE, ROOT
from protocol import codec, states
from protocol.framing import LENGTHS
from protocol.messages import Goodbye

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
PACKAGES = ("protocol", "agent", "cloud_broker", "installer", "config", "bench")
PROGRAMS: dict[str, click.Group] = {
    "outhaul-agent": agent.cli.cli,
    "outhaul-broker": cloud_broker.cli.main,
    "outhaul": cloud_broker.client.cli.cli,
}
COMMANDS = [found for name, group in PROGRAMS.items() for found in programs.walk(group, (name,))]


def page(name: str) -> str:
    """The text of a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """All text files that belong to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def modules(*packages: str) -> list[Path]:
    """The modules of some packages that are not empty."""
    found = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    return [path for path in found if "node_modules" not in path.parts and path.read_text(encoding="utf-8").strip()]


def blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """The code blocks of a page in one language, each with its line."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(rf"^( *)```{language}\b[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start()) + 1, textwrap.dedent(match[2])


# --- every word of the outside has its place ----------------------------------------------------------


@pytest.mark.parametrize(("words", "command"), [pytest.param(*found, id=" ".join(found[0])) for found in COMMANDS])
def test_every_command_and_option_has_its_place(words: tuple[str, ...], command: click.Command) -> None:
    text = page(f"{words[0]}.md")
    assert " ".join(words) in text
    for param in command.params:
        for name in [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]:
            assert re.search(rf"{name}\b", text), f"{' '.join(words)} {name}"


def test_no_page_tells_of_a_command_that_does_not_exist() -> None:
    assert [f"{path.relative_to(ROOT)}: {name}" for path in PAGES for name in unknown(code(path))] == []


def test_no_message_tells_of_a_command_that_does_not_exist() -> None:
    wrong = []
    for path in modules("agent", "cloud_broker"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        # Docstrings are not for users, but for those of commands, which stand in the reference.
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
            for node in texts
            for name in unknown([node.value] if isinstance(node.value, str) else [])
        ]
    assert wrong == []


def unknown(texts: Iterable[str]) -> list[str]:
    """The commands of ours in some texts that no program has."""
    known = {" ".join(words) for words, _ in COMMANDS}
    groups = {name.rpartition(" ")[0] for name in known} - set(PROGRAMS)
    named = r"(?<![\w/.-])(outhaul(?:-agent|-broker)?) ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?"
    found = []
    for program, first, second in re.findall(named, "\n".join(texts)):
        command = f"{program} {first}"
        if command in groups and second:
            command += f" {second}"
        found.append(command)
    return sorted(set(found) - known - groups)


def code(path: Path) -> Iterator[str]:
    """What a page shows as code, but for what it says comes later."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^## What comes later$.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^    (.*)$", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def test_every_key_of_the_brokers_file_has_its_place() -> None:
    text = page("broker-file.md")
    assert {field.annotation for field in BrokerSettings.model_fields.values()} >= {
        model for title, model in BROKER_FILE if title.startswith("[") and not title.startswith("[[")
    }
    assert [key for _, model in BROKER_FILE for key in model.model_fields if f"| `{key}` |" not in text] == []


def test_every_route_has_its_place() -> None:
    paths = described().openapi()["paths"]
    text = page("http-api.md")
    text = re.sub(r"\{\w+\}", "{}", text)
    routes = [
        f"{method.upper()} {re.sub(r'{.*?}', '{}', path)}" for path, methods in paths.items() for method in methods
    ]
    assert len(routes) > 10
    assert [route for route in routes if f"`{route}`" not in text] == []


def test_every_problem_has_its_place_in_both_pages() -> None:
    for name in ("errors.md", "http-api.md"):
        codes_there = set(re.findall(r"`([a-z_]+)`", page(name)))
        assert {kind.code for kind in codes.tree(cloud_broker.errors.BrokerError)} - codes_there == set(), name


def test_every_code_of_a_command_has_its_place() -> None:
    there = set(re.findall(r"^\| `([a-z_]+)` \|", page("errors.md"), re.MULTILINE))
    agents = {kind.code for kind in codes.tree(agent.errors.CommandError) if not kind.__subclasses__()}
    assert agents | set(codes.BROKERS_OWN) - there == agents


def test_the_codes_that_only_the_broker_makes_are_known() -> None:
    made = set()
    for path in modules("cloud_broker"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CommandError" and len(node.args) > 1:
                made |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()
    assert made == set(codes.BROKERS_OWN)


def test_every_kind_of_message_and_every_member_has_its_place() -> None:
    text = page("wire.md")
    for kind in (*wire.MESSAGES, *wire.PARTS_OF_MESSAGES):
        section = text.partition(f"### {kind.__name__}\n")[2].partition("\n### ")[0]
        assert [member for member in wire.meanings(kind) if f"| `{member}` |" not in section] == [], kind.__name__


def test_every_goodbye_has_its_place() -> None:
    said = set(re.findall(r"``(\w+)``", (Goodbye.__doc__ or "").partition("code:")[2].partition("reason:")[0]))
    table = page("wire.md").partition("\n## Goodbye\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == said


def test_every_member_of_a_catalogue_has_its_place() -> None:
    loaded = config_file.load(ROOT / "config" / "agent.example.toml")
    built = catalogue.build(loaded.settings, {})
    lines = {name: line for name in built for line in page("wire.md").splitlines() if line.startswith(f"| `{name}` |")}
    members = {name: found[0] if isinstance(found, list) else found for name, found in built.items()}
    assert [key for name, keys in members.items() for key in keys if f"`{key}`" not in lines.get(name, "")] == []


def test_every_state_has_its_place() -> None:
    for name in ("wire.md", "http-api.md"):
        assert [state for state in states.CommandState if f"`{state}`" not in page(name)] == []


def test_every_page_of_the_reference_is_in_the_index() -> None:
    index = page("index.md")
    names = [path.name for path in REFERENCE.iterdir() if path.name != "index.md"]
    assert [name for name in names if f"]({name})" not in index] == []


# --- what stands there is true ------------------------------------------------------------------------


def test_the_worked_example_is_what_the_codec_reads() -> None:
    [(_, dump)] = blocks(REFERENCE / "wire.md", "hexdump")
    data = bytes.fromhex("".join(line[10:57] for line in dump.splitlines()))
    assert codec.decode(data) == list(wire.EXAMPLE)
    header, payload = LENGTHS.unpack(data[: LENGTHS.size])
    assert json.loads(data[8 : 8 + header])["kind"] == "Run"
    assert json.loads(data[8 + header : 8 + header + payload]) == {"customer": "C042"}


@pytest.mark.parametrize(
    ("module", "root"),
    [
        (agent.errors, agent.errors.AgentError),
        (cloud_broker.errors, cloud_broker.errors.BrokerError),
        (cloud_broker.client.errors, cloud_broker.client.errors.OuthaulError),
        (protocol.errors, protocol.errors.ProtocolError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_tree_in_the_docstring_is_the_tree_of_the_classes(module: Any, root: type[Exception]) -> None:
    drawn = re.findall(r"^( *)\* (\w+)(?: +(.*))?$", module.__doc__, re.MULTILINE)
    wanted = list(_drawn(root, 0))
    assert [(len(indent) // 4, name) for indent, name, _ in drawn] == [(depth, kind.__name__) for depth, kind in wanted]
    for (_, name, facts), (_, kind) in zip(drawn, wanted, strict=True):
        code, status = getattr(kind, "code", None), getattr(kind, "status", None)
        if not isinstance(code, str) or (not facts and kind.__subclasses__()):
            continue
        assert code in facts.split(), name
        assert ("retryable" in facts.split()) == getattr(kind, "retryable", False), name
        assert status is None or str(status) in facts.split(), name


def _drawn(kind: type[Exception], depth: int) -> Iterator[tuple[int, type[Exception]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        yield from _drawn(child, depth + 1)


TOML = [
    pytest.param(text, id=f"{path.relative_to(ROOT)}:{line}") for path in PAGES for line, text in blocks(path, "toml")
]
# What only the broker's file has.
BROKERS_TABLES = set(BrokerSettings.model_fields) - set(hints(agent_settings.Settings))
BROKERS_LINK = set(BrokerLink.model_fields) - set(hints(agent_settings.Link))
# What stands in fragments may name these.
BASE = """
agent = "plant-1"
state_dir = "state"
[connections.erp]
type = "odbc"
connection_string = "Driver={SQLite3};Database=erp.db"
[connections.edi]
type = "file"
root = "edi"
[connections.finance]
type = "soap"
wsdl = "finance.wsdl"
[operations.find-invoice]
connection = "finance"
call = "FindInvoice"
effect = "read"
"""


@pytest.mark.parametrize("text", TOML)
def test_every_block_of_toml_can_be_loaded(text: str) -> None:
    if "[" not in {line[:1] for line in text.splitlines()} and "agent " not in text:
        # Single keys, of which there may be several versions.
        known = {key for model in vars(agent_settings).values() for key in getattr(model, "__struct_fields__", ())}
        for line in text.splitlines():
            assert set(tomllib.loads(line)) <= known, line
        return
    found = tomllib.loads(text)
    if set(found) & BROKERS_TABLES or set(found.get("link", {})) & BROKERS_LINK:
        BrokerSettings.model_validate(found)
    elif "agent" in found:
        config_file.parse(text, "the page")
    else:
        whole = tomllib.loads(BASE)
        for section, entries in found.items():
            whole[section] = whole.get(section, {}) | entries
        config_file.parse("\n".join(f"{key} = {toml(value)}" for key, value in whole.items()), "the page")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        leads_to = (path.parent / name) if name else path
        if not leads_to.exists() or (anchor and anchor not in anchors(leads_to)):
            wrong.append(target)
    assert wrong == []


def anchors(path: Path) -> set[str]:
    """Where a link can lead to in a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_has_one_title_and_can_be_reached() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path in reached or not path.is_file() or path.suffix != ".md":
            continue
        reached.add(path)
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"^# ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)) == 1, path
        targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text))
        ahead += [(path.parent / target).resolve() for target in targets if target and ":" not in target]
    assert [str(path.relative_to(ROOT)) for path in PAGES if path not in reached] == []


def test_nothing_that_is_not_part_of_the_project_is_named() -> None:
    # In two parts, or this file would be found.
    foreign = ["../" + "shared", "/work/" + "shared", "house" + " rules", "contract" + ".md"]
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found += [f"{path.relative_to(ROOT)}: {word}" for word in foreign if word.encode() in data]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in modules(*PACKAGES) if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []
