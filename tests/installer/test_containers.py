"""The images and the Kubernetes example, as far as no container engine is needed to look at them."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from agent import config_file
from cloud_broker import settings as broker_settings

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "installer" / "container"
PROGRAMS: Final = ("broker", "agent")
UID: Final = 10001


def steps(program: str) -> list[list[str]]:
    """The instructions of an image file, each as its words."""
    text = (FOLDER / f"{program}.Containerfile").read_text("utf-8")
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    return [line.split() for line in joined.splitlines() if line.strip()]


def documents(program: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "kubernetes" / f"{program}.yaml").read_text("utf-8")))


def one(program: str, kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents(program) if document["kind"] == kind)
    return found


def pod(program: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(program, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def containers(program: str) -> Iterator[dict[str, Any]]:
    yield from pod(program)["initContainers"]
    yield from pod(program)["containers"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_an_image_copies_is_there_and_not_ignored(program: str) -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()}
    copied = [
        word
        for name, *words in steps(program)
        if name == "COPY" and not words[0].startswith("--from")
        for word in words[:-1]
    ]
    assert copied
    for word in copied:
        assert word in kept or str(Path(word).parent / f"*{Path(word).suffix}") in kept, f"{word}: is ignored"
        # What `make build` makes is not here before it ran.
        assert (ROOT / word).exists() or word.startswith("dist/"), word


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_image_runs_its_program_under_an_account_of_its_own(program: str) -> None:
    last = {name: words for name, *words in steps(program)}
    assert last["USER"] == [f"{UID}:{UID}"]
    assert yaml.safe_load(" ".join(last["ENTRYPOINT"])) == [f"outhaul-{program}"]
    assert ["ARG", "BASE=docker.io/library/debian:bookworm-slim"] in steps(program), "a base of one release"
    assert all(
        "--require-hashes" in words or "--no-index" in words
        for words in steps(program)
        if "install" in words and "--no-cache-dir" in words
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_pod_may_do_little(program: str) -> None:
    assert pod(program)["securityContext"]["runAsUser"] == UID
    assert pod(program)["securityContext"]["runAsNonRoot"] is True
    assert pod(program)["automountServiceAccountToken"] is False
    for container in containers(program):
        least = container["securityContext"]
        assert least["readOnlyRootFilesystem"] is True
        assert least["allowPrivilegeEscalation"] is False
        assert least["capabilities"] == {"drop": ["ALL"]}
    for volume in pod(program)["volumes"]:
        if "secret" in volume:
            assert stat.filemode(volume["secret"]["defaultMode"]) == "?r--r-----"


def test_the_brokers_file_in_the_example_is_read_by_the_broker(tmp_path: Path) -> None:
    text = one("broker", "ConfigMap")["data"]["broker.toml"]
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("PEM", "utf-8")
    file = tmp_path / "broker.toml"
    file.write_text(text.replace("/etc/outhaul-tls", tmp_path.as_posix()), "utf-8")
    settings = broker_settings.load(file)
    ports = {port["name"]: port["containerPort"] for port in pod("broker")["containers"][0]["ports"]}
    assert settings.api.listen.endswith(f":{ports['api']}")
    assert settings.link.listen.endswith(f":{ports['link']}")
    assert settings.link.url.endswith(f":{ports['link']}")
    exposed = [int(word) for name, *words in steps("broker") if name == "EXPOSE" for word in words]
    assert exposed == list(ports.values())


def test_the_agents_file_in_the_example_is_read_by_the_agent(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(one("agent", "ConfigMap")["data"]["agent.toml"], "utf-8")
    loaded = config_file.load(file)
    assert loaded.remarks == ()
    assert Path(loaded.settings.state_dir).parts[:4] == ("/", "var", "lib", "outhaul-agent")


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_pod_keeps_is_on_its_volume_and_all_it_mounts_is_there(program: str) -> None:
    claims = [claim["metadata"]["name"] for claim in one(program, "StatefulSet")["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"] for volume in pod(program)["volumes"]} | set(claims)
    for container in containers(program):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= volumes
        assert [mounts[claim] for claim in claims] == [f"/var/lib/outhaul-{program}"]
    (volume,) = (words for name, *words in steps(program) if name == "VOLUME")
    assert volume == [f"/var/lib/outhaul-{program}"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_secret_is_on_a_command_line_or_in_the_environment(program: str) -> None:
    for container in containers(program):
        assert "env" not in container
        words = shlex.split(" ".join(container.get("command", ())).replace("\n", " "))
        assert not {"--token"} & set(words) or words[words.index("--token") + 1] == "-"
