"""The broker's authority: what it issues, and what it reads out of a certificate."""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_broker.identity.authority import DAY_S, Authority
from cloud_broker.identity.certificates import MAX_CSR_BYTES, CertificateInvalid, end_of, identity_of, same_key
from tests.agent.link.certificates import csr

NOW = 1_800_000_000.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A new authority."""
    return Authority.create(tmp_path / "ca", NOW)


def a_request() -> bytes:
    return csr(ec.generate_private_key(ec.SECP256R1()))


def test_an_authority_is_kept_in_its_folder(authority: Authority) -> None:
    again = Authority.load(authority.folder)
    assert again.ca_der == authority.ca_der
    assert again.ca_pem == (authority.folder / "ca.crt").read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE((authority.folder / "ca.key").stat().st_mode) == 0o600
        assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_an_authority_is_never_made_over_another(authority: Authority) -> None:
    with pytest.raises(FileExistsError):
        Authority.create(authority.folder, NOW)


def test_an_authority_with_anothers_key_is_told(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", NOW)
    (authority.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(CertificateInvalid, match=r"ca\.key is not the key of ca\.crt"):
        Authority.load(authority.folder)
    (authority.folder / "ca.key").write_bytes(b"damaged")
    with pytest.raises(CertificateInvalid, match="damaged"):
        Authority.load(authority.folder)
    (authority.folder / "ca.key").unlink()
    with pytest.raises(FileNotFoundError):
        Authority.load(authority.folder)


def test_a_root_issues_no_further_authorities(authority: Authority) -> None:
    root = authority.certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert root.not_valid_after_utc - root.not_valid_before_utc > timedelta(days=3650)


def test_an_agents_certificate_names_tenant_and_agent_for_thirty_days(authority: Authority) -> None:
    request = a_request()
    der, serial, not_after = authority.sign_agent(request, "acme", "plant-1", NOW)
    assert identity_of(der) == ("acme", "plant-1", serial)
    assert same_key(der, request)
    assert not same_key(der, a_request())
    assert (not_after, end_of(der)) == (NOW + 30 * DAY_S, NOW + 30 * DAY_S)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.not_valid_before_utc == datetime.fromtimestamp(NOW - 300, UTC)
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_serial_is_never_used_twice(authority: Authority) -> None:
    request = a_request()
    assert len({authority.sign_agent(request, "acme", "plant-1", NOW)[1] for _ in range(100)}) == 100


def test_of_a_request_only_the_key_is_taken(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wishful = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://outhaul/tenant/other/agent/x")]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    der, _, _ = authority.sign_agent(wishful, "acme", "plant-1", NOW)
    assert identity_of(der)[:2] == ("acme", "plant-1")
    assert not x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _other_curve() -> bytes:
    return csr(ec.generate_private_key(ec.SECP384R1()))


def _rsa() -> bytes:
    key = rsa.generate_private_key(65_537, 2_048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def _forged() -> bytes:
    request = bytearray(a_request())
    request[-1] ^= 1
    return bytes(request)


@pytest.mark.parametrize("make", [_other_curve, _rsa, _forged, bytes, lambda: b"\x30" * 40, lambda: b"x" * 20_000])
def test_a_wrong_request_gets_no_certificate(authority: Authority, make: object) -> None:
    assert callable(make)
    assert MAX_CSR_BYTES < 20_000
    with pytest.raises(CertificateInvalid, match="signing request"):
        authority.sign_agent(make(), "acme", "plant-1", NOW)


@pytest.mark.parametrize(("tenant", "agent"), [("a/b", "x"), ("", "x"), ("acme", "../x"), ("acme", "x\n")])
def test_a_name_that_could_be_read_otherwise_gets_no_certificate(authority: Authority, tenant: str, agent: str) -> None:
    with pytest.raises(CertificateInvalid, match="not a name"):
        authority.sign_agent(a_request(), tenant, agent, NOW)


@pytest.mark.parametrize(
    "names",
    [
        None,
        [],
        [x509.DNSName("spiffe://outhaul/tenant/a/agent/b")],
        [x509.UniformResourceIdentifier("https://outhaul/tenant/a/agent/b")],
        [x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a/agent/b/c")],
        [x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a%2Fb/agent/c")],
        [x509.UniformResourceIdentifier("spiffe://outhaul/tenant//agent/c")],
        [x509.UniformResourceIdentifier("spiffe://other/tenant/a/agent/c")],
        [x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a/agent/c\n")],
        [
            x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a/agent/b"),
            x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a/agent/c"),
        ],
        [x509.UniformResourceIdentifier("spiffe://outhaul/tenant/a/agent/b"), x509.DNSName("b")],
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_agent_is_no_identity(
    names: list[x509.GeneralName] | None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    with pytest.raises(CertificateInvalid, match="agent"):
        identity_of(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def test_garbage_is_no_identity() -> None:
    with pytest.raises(CertificateInvalid):
        identity_of(b"garbage")


# --- the broker's own -----------------------------------------------------------------------------------


def test_the_servers_certificate_is_kept_while_it_is_good(authority: Authority) -> None:
    first = authority.server_certificate(["broker.example.com", "127.0.0.1", "::1"], NOW)
    assert authority.server_certificate(["127.0.0.1", "::1", "broker.example.com"], NOW + 200 * DAY_S) == first
    names = x509.load_pem_x509_certificate(first[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == ["broker.example.com", "127.0.0.1", "::1"]
    if os.name == "posix":
        assert stat.S_IMODE((authority.folder / "server.key").stat().st_mode) == 0o600


def test_the_servers_certificate_is_made_anew_when_hosts_or_time_change(authority: Authority) -> None:
    first = authority.server_certificate(["a.example.com"], NOW)
    second = authority.server_certificate(["b.example.com"], NOW)
    third = authority.server_certificate(["b.example.com"], NOW + 250 * DAY_S)
    fourth = authority.server_certificate(["b.example.com"], NOW - 900 * DAY_S)
    assert len({first, second, third, fourth}) == 4


def test_the_servers_certificate_is_made_anew_after_a_crash_between_key_and_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    first = authority.server_certificate(["a"], NOW)
    other = Authority.create(tmp_path / "other", NOW)
    (authority.folder / "server.key").write_bytes(other.server_certificate(["a"], NOW)[1])
    assert authority.server_certificate(["a"], NOW) not in (first,)
    (authority.folder / "server.crt").write_bytes(b"half")
    authority.server_certificate(["a"], NOW)
    (authority.folder / "server.crt").write_bytes((other.folder / "server.crt").read_bytes())
    (authority.folder / "server.key").write_bytes((other.folder / "server.key").read_bytes())
    certificate = x509.load_pem_x509_certificate(authority.server_certificate(["a"], NOW)[0])
    certificate.verify_directly_issued_by(authority.certificate)


def test_nothing_outlives_the_authority(authority: Authority) -> None:
    late = authority.certificate.not_valid_after_utc.timestamp() - DAY_S
    assert end_of(authority.sign_agent(a_request(), "acme", "x", late)[0]) == late + DAY_S


def test_no_temporary_file_stays(authority: Authority) -> None:
    authority.server_certificate(["a"], time.time())
    assert sorted(path.name for path in authority.folder.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]
