"""Certificates of an operator's own PKI, shown directly or through a TLS terminator in front of the broker."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from websockets.exceptions import InvalidMessage, InvalidStatus

from cloud_broker.api.services import Services
from cloud_broker.cli import main
from cloud_broker.identity.authority import Authority
from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.link.terminators import Terminators, address_of, shown, verify
from cloud_broker.settings import CertificateSettings, ConfigError
from cloud_broker.store.agents import Agent
from protocol.messages import Renew, Renewed
from tests.agent.link.certificates import csr
from tests.cloud_broker.own_pki import Pki
from tests.cloud_broker.plain_agent import ACME, PlainAgent, broker

NOW = time.time()


@pytest.fixture(scope="module")
def pki() -> Pki:
    """The operator's."""
    return Pki()


@pytest.fixture
async def there(tmp_path: Path, pki: Pki) -> AsyncIterator[Services]:
    """A broker that trusts it too."""
    async with broker(tmp_path, link={"client_authorities": pki.bundle(tmp_path)}) as services:
        yield services


def own(folder: Path, there: Services, pki: Pki, **wanted: Any) -> PlainAgent:
    """An agent that never enrolled: key, certificate and authorities are in its file."""
    key, certificate = pki.agents(**wanted)
    authority = Authority.load(folder / "data").ca_der
    made = PlainAgent(folder / "own", there.settings.link.url, [authority], certificate.public_bytes(Encoding.DER))
    made.key = key
    made.between = [pki.middle]
    return made


async def register(there: Services) -> None:
    await there.store.add_agent(Agent("acme", "plant-1", "plants", "", 0.0, time.time(), own_pki=True))


async def status_of(agent: PlainAgent, path: str = "/link", **more: Any) -> tuple[int, str]:
    """How the broker answers."""
    with pytest.raises(InvalidStatus) as caught:
        async with agent.dial(path, **more):
            pass
    return caught.value.response.status_code, caught.value.response.body.decode()


async def test_a_registered_agent_links_with_a_certificate_of_its_own_pki_and_with_the_next(
    tmp_path: Path, there: Services, pki: Pki
) -> None:
    await register(there)
    lineage = ""
    for _ in range(2):
        agent = own(tmp_path, there, pki)
        async with agent.link(lineage=lineage) as (link, welcome):
            lineage = welcome.lineage
            known = await there.store.agent(ACME, "plant-1")
            assert known is not None
            assert (known.serial, known.issuer, known.group) == (agent.serial, "", "plants")
            await link.say(Renew("n1"), csr(agent.key))
            answer, _ = await link.hear(Renewed)
            assert "operator's own PKI" in answer.refused


async def test_who_is_not_registered_does_not_link(tmp_path: Path, there: Services, pki: Pki) -> None:
    assert (await status_of(own(tmp_path, there, pki)))[0] == 403
    enrolled = await PlainAgent.enrolled(tmp_path / "agent", there)
    status, text = await status_of(own(tmp_path, there, pki))
    assert (status, "come from this broker's authority, and this one does not" in text) == (403, True)
    async with enrolled.link():
        pass


async def test_a_registered_agent_does_not_link_with_a_certificate_of_ours(
    tmp_path: Path, there: Services, pki: Pki
) -> None:
    await register(there)
    agent = own(tmp_path, there, pki)
    authority = Authority.load(tmp_path / "data")
    agent.certificate, _, _ = authority.sign_agent(csr(agent.key), "acme", "plant-1", time.time())
    agent.between = []
    assert "come from the operator's own PKI" in (await status_of(agent))[1]


@pytest.mark.parametrize(
    "wanted", [{"days": -1}, {"purpose": ExtendedKeyUsageOID.SERVER_AUTH}], ids=["run out", "for servers"]
)
async def test_a_wrong_certificate_of_its_pki_does_not_come_through(
    tmp_path: Path, there: Services, pki: Pki, wanted: dict[str, Any]
) -> None:
    await register(there)
    with pytest.raises(InvalidMessage):
        async with own(tmp_path, there, pki, **wanted).dial():
            pass


async def test_a_certificate_of_another_pki_does_not_come_through(tmp_path: Path, there: Services) -> None:
    await register(there)
    with pytest.raises(InvalidMessage):
        async with own(tmp_path, there, Pki()).dial():
            pass


async def test_where_our_authority_issues_nothing_it_is_trusted_for_nothing(tmp_path: Path, pki: Pki) -> None:
    async with broker(tmp_path) as there:
        enrolled = await PlainAgent.enrolled(tmp_path / "agent", there)
    settings = CertificateSettings(issue=False)
    async with broker(tmp_path, certificates=settings, link={"client_authorities": pki.bundle(tmp_path)}) as there:
        enrolled.url = there.settings.link.url
        with pytest.raises(InvalidMessage):
            async with enrolled.dial():
                pass
        with pytest.raises(AssertionError, match="issues no certificates"):
            await PlainAgent.enrolled(tmp_path / "agent", there, "plant-2")
        await there.store.add_agent(Agent("acme", "own", None, "", 0.0, time.time(), own_pki=True))
        async with own(tmp_path, there, pki, uri="spiffe://outhaul/tenant/acme/agent/own").link():
            pass


async def test_the_broker_shows_a_certificate_of_the_operators_own(tmp_path: Path, pki: Pki) -> None:
    certificate, key = pki.server(tmp_path)
    link = {
        "certificate": certificate,
        "key": key,
        "authorities": pki.bundle(tmp_path),
        "public_url": "wss://localhost:1",
    }
    async with broker(tmp_path, link=link) as there:
        port = there.settings.link.listen.rpartition(":")[2]
        url = f"wss://localhost:{port}"
        agent = await PlainAgent.enrolled(tmp_path / "agent", there, url=url)
        assert agent.authorities == [pki.root.public_bytes(Encoding.DER)]
        assert [base64.b64decode(one) for one in agent.told] == [
            Authority.load(tmp_path / "data").ca_der,
            *agent.authorities,
        ]
        async with agent.link():
            pass


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ({"certificate": "nothing.pem", "key": "nothing.key"}, "link.certificate = .*can't be used"),
        ({"client_authorities": "nothing.pem"}, "nothing.pem: can't be read"),
        ({"authorities": "no.pem"}, "no.pem: wants certificates as PEM"),
    ],
)
async def test_files_that_can_not_be_used_are_told_at_the_start(
    tmp_path: Path, link: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "no.pem").write_text("not PEM")
    with pytest.raises((ConfigError, CertificateInvalid), match=sentence):
        async with broker(tmp_path, link={name: tmp_path / file for name, file in link.items()}):
            pass


async def test_a_trust_domain_of_ones_own_stands_in_every_certificate(tmp_path: Path) -> None:
    async with broker(tmp_path) as there:
        stranger = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with broker(tmp_path, certificates=CertificateSettings(trust_domain="erp.example.com")) as there:
        agent = await PlainAgent.enrolled(tmp_path / "agent", there, "plant-2")
        names = x509.load_der_x509_certificate(agent.certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert [str(name.value) for name in names.value] == ["spiffe://erp.example.com/tenant/acme/agent/plant-2"]
        async with agent.link():
            stranger.url = agent.url
            assert "spiffe://erp.example.com/tenant/TENANT/agent/AGENT" in (await status_of(stranger))[1]


def test_an_agent_is_registered_by_the_operator(tmp_path: Path, pki: Pki) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(main, [*words, "--config", str(tmp_path / "broker.toml")])

    (tmp_path / "broker.toml").write_text('data_dir = "data"\n')
    assert run("init").exit_code == 0
    assert run("tenant", "create", "acme").exit_code == 0
    words = ("agent", "add", "--tenant", "acme", "--agent", "plant-1", "--group", "plants")
    answer = run(*words)
    assert (answer.exit_code, "link.client_authorities names no authorities" in answer.output) == (1, True)
    pki.bundle(tmp_path)
    (tmp_path / "broker.toml").write_text('data_dir = "data"\n[link]\nclient_authorities = "own-root.pem"\n')
    made = json.loads(run(*words, "--json").stdout)
    assert made == {
        "tenant": "acme",
        "name": "plant-1",
        "group": "plants",
        "uri": "spiffe://outhaul/tenant/acme/agent/plant-1",
    }
    answer = run(*words)
    assert (answer.exit_code, "has an agent 'plant-1' already" in answer.output) == (1, True)
    assert run("agent", "add", "--tenant", "nobody", "--agent", "x").exit_code == 1
    [listed] = json.loads(run("agent", "list", "--json").stdout)["items"]
    certificate = {"serial": None, "not_after": None, "issuer": None, "own_pki": True, "next": None}
    assert listed["certificate"] == certificate


# --- through a TLS terminator --------------------------------------------------------------------------------


def field(certificate: x509.Certificate) -> str:
    return f":{base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()}:"


def passed_on(agent: PlainAgent, *between: x509.Certificate, source: str = "203.0.113.9") -> list[tuple[str, str]]:
    """The headers of a terminator that saw this agent's certificate."""
    headers = [("Client-Cert", field(x509.load_der_x509_certificate(agent.certificate)))]
    if between:
        headers.append(("Client-Cert-Chain", ", ".join(map(field, between))))
    return [*headers, ("X-Forwarded-For", f"198.51.100.1, {source}")]


async def test_an_agent_comes_in_through_a_terminator(tmp_path: Path, pki: Pki) -> None:
    link = {"terminators": ["127.0.0.0/8"], "client_authorities": pki.bundle(tmp_path)}
    async with broker(tmp_path, link=link) as there:
        agent = await PlainAgent.enrolled(tmp_path / "agent", there)
        async with agent.dial("/prove", shown=False, additional_headers=passed_on(agent)) as connection:
            assert json.loads(await connection.recv())["serial"] == agent.serial
        await there.store.add_agent(Agent("acme", "own", None, "", 0.0, time.time(), own_pki=True))
        other = own(tmp_path, there, pki, uri="spiffe://outhaul/tenant/acme/agent/own")
        headers = passed_on(other, pki.middle)
        async with other.dial("/prove", shown=False, additional_headers=headers) as connection:
            assert json.loads(await connection.recv())["agent"] == "own"
        status, text = await status_of(other, shown=False, additional_headers=passed_on(other))
        assert (status, "can't be trusted" in text) == (403, True), "the chain is not whole"
        status, _ = await status_of(agent)
        assert status == 401, "what a terminator shows itself is nobody's identity"
        status, _ = await status_of(agent, shown=False, additional_headers=passed_on(agent)[:1] * 2)
        assert status == 403
        await there.store.revoke_agent(ACME, "plant-1", time.time())
        status, text = await status_of(agent, shown=False, additional_headers=passed_on(agent))
        assert (status, "revoked" in text) == (403, True)


async def test_from_anywhere_else_the_header_is_refused(tmp_path: Path) -> None:
    async with broker(tmp_path, link={"terminators": ["10.0.0.0/8"]}) as there:
        agent = await PlainAgent.enrolled(tmp_path / "agent", there)
        for shows in (True, False):
            status, text = await status_of(agent, shown=shows, additional_headers=passed_on(agent))
            assert (status, "no TLS terminator of this broker" in text) == (400, True)
        async with agent.link():
            pass


def test_what_a_terminator_passes_on_is_verified(pki: Pki) -> None:
    _, good = pki.agents()
    other = Pki()
    between = [pki.middle.public_bytes(Encoding.DER)]
    verify(good.public_bytes(Encoding.DER), between, [other.root, pki.root], NOW)
    _, ended = pki.agents(days=-1)
    _, servers = pki.agents(purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    for certificate, chain, trusted, now in (
        (good, [], [pki.root], NOW),
        (good, between, [other.root], NOW),
        (good, between, [], NOW),
        (good, between, [pki.root], NOW + 400 * 86_400),
        (good, between, [pki.root], NOW - 400 * 86_400),
        (ended, between, [pki.root], NOW),
        (servers, between, [pki.root], NOW),
        (pki.middle, [], [pki.root], NOW),
    ):
        with pytest.raises(CertificateInvalid):
            verify(certificate.public_bytes(Encoding.DER), chain, trusted, now)
    with pytest.raises(CertificateInvalid):
        verify(b"garbage", between, [pki.root], NOW)


def test_our_own_authoritys_certificates_pass_the_same_verification(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    der, _, _ = authority.sign_agent(request, "acme", "plant-1", NOW)
    verify(der, [], [authority.certificate], NOW)


@pytest.mark.parametrize(
    ("certificate", "chain"),
    [
        (["abc"], []),
        ([":abc"], []),
        ([":a b:"], []),
        (["::", "::"], []),
        ([f":{'A' * 30_000}:"], []),
        ([":AAAA:"], ["AAAA"]),
        ([":AAAA:"], [", ".join([":AAAA:"] * 6)]),
    ],
)
def test_a_malformed_header_is_refused(certificate: list[str], chain: list[str]) -> None:
    with pytest.raises(CertificateInvalid):
        shown(certificate, chain)


def test_headers_are_read_as_the_rfc_has_them() -> None:
    assert shown([], [":AAAA:"]) == (None, [])
    assert shown([" :AAAA: "], [":AAAB:, :AAAC:", ":AAAD:"]) == (
        b"\0\0\0",
        [b"\0\0\1", b"\0\0\2", b"\0\0\3"],
    )


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fd01::1", False),
        ("?", False),
    ],
)
def test_terminators_are_known_by_their_addresses(host: str, inside: bool) -> None:
    assert (host in Terminators(["10.0.0.0/8", "fd00::/16"])) is inside


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [([], "10.0.0.1"), (["1.2.3.4"], "1.2.3.4"), (["9.9.9.9, 1.2.3.4"], "1.2.3.4"), (["x"], "10.0.0.1")],
)
def test_a_terminator_tells_where_somebody_comes_from(forwarded: list[str], address: str) -> None:
    assert address_of(forwarded, "10.0.0.1") == address
