"""The Python client on a network that misbehaves: what is asked again, what is told, and that no row is missed."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cloud_broker.client.api import Outhaul
from cloud_broker.client.connection import TRIES, checked_url, pauses_s
from cloud_broker.client.errors import NotReachable, ProblemError, ProfileError, ResultCut, UnknownAnswer, WordsError
from tests.cloud_broker.client.raw import RawServer, chunked, reply

KEY = "ohk_very-secret"


def command(state: str = "succeeded", rows: int = 0, **more: Any) -> bytes:
    sets = [{"columns": [{"name": "n", "type": "integer"}], "rows": rows}] if rows else []
    return json.dumps({"id": "cmd_1", "state": state, "operation": "rows", "row_sets": sets, **more}).encode()


def client(server: RawServer, **more: Any) -> Outhaul:
    return Outhaul(server.url, KEY, pause=lambda seconds: None, **more)


def test_a_submission_without_an_answer_is_sent_again_with_the_same_key() -> None:
    with RawServer([b"", reply(503, b"busy", "text/plain", Retry_After="1"), reply(202, command("queued"))]) as server:
        with client(server) as outhaul:
            assert outhaul.call("plant-1", "rows", {"count": 1}).state == "queued"
        heads = [request.partition("\r\n\r\n")[0].lower() for request in server.requests]
    keys = {line for head in heads for line in head.split("\r\n") if line.startswith("idempotency-key:")}
    assert len(heads) == 3
    assert len(keys) == 1
    assert len({request.partition("\r\n\r\n")[2] for request in server.requests}) == 1


def test_a_submission_that_never_gets_an_answer_names_its_key_and_not_the_callers() -> None:
    with RawServer([b""]) as server, client(server) as outhaul:
        with pytest.raises(NotReachable, match=r"may have been taken: .* idempotency key order-4711") as told:
            outhaul.call("plant-1", "rows", idempotency_key="order-4711")
        assert len(server.requests) == TRIES
    assert KEY not in str(told.value)
    assert KEY not in repr(outhaul)


def test_a_long_retry_after_is_not_waited_for() -> None:
    with RawServer([reply(503, b'{"detail": "later"}', Retry_After="600")]) as server, client(server) as outhaul:
        with pytest.raises(ProblemError, match="later"):
            outhaul.agents()
        assert len(server.requests) == 1


def test_a_no_of_the_broker_is_not_asked_again() -> None:
    problem = {"type": "urn:outhaul:problem:parameters-invalid", "code": "parameters_invalid", "detail": "count: …"}
    body = json.dumps(problem | {"errors": [{"name": "count", "reason": "is no integer"}]}).encode()
    with RawServer([reply(422, body, "application/problem+json")]) as server, client(server) as outhaul:
        with pytest.raises(ProblemError) as told:
            outhaul.call("plant-1", "rows")
        assert len(server.requests) == 1
    assert (told.value.status, told.value.code) == (422, "parameters_invalid")
    assert told.value.errors == [{"name": "count", "reason": "is no integer"}]


def test_a_decimal_is_sent_digit_for_digit() -> None:
    with RawServer([reply(202, command())]) as server, client(server) as outhaul:
        outhaul.call("plant-1", "pay", {"total": Decimal("12345678901234567890.10")})
        assert '"total":12345678901234567890.10' in server.requests[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object, "a\udcff"])
def test_what_is_no_json_is_told_before_anything_is_sent(value: Any) -> None:
    with RawServer([]) as server, client(server) as outhaul:
        with pytest.raises(WordsError):
            outhaul.call("plant-1", "pay", {"total": value})
        assert server.requests == []


def test_waiting_goes_on_until_the_command_ended() -> None:
    with RawServer([reply(202, command("queued")), reply(200, command("running")), reply(200, command())]) as server:
        with client(server) as outhaul:
            assert outhaul.call("plant-1", "rows", wait_s=20).succeeded
        assert "prefer: wait=20" in server.requests[0].lower()
        assert server.requests[1].startswith("GET /v1/commands/cmd_1?wait=")


def test_rows_come_one_by_one_however_they_are_cut_into_pieces() -> None:
    answers = [chunked(b'{"n":', b' 1}\n{"n": 2}', b"\n"), reply(200, command(rows=2))]
    with RawServer(answers) as server, client(server) as outhaul:
        assert list(outhaul.rows("cmd_1")) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([chunked(b'{"n": 1}\n', whole=False)], "the rows were cut"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}\n"], "the rows were cut"),
        ([chunked(b'{"n": 1}\n{"n"')], "end in the middle of row 2"),
        ([chunked(b'{"n": 1}\n'), reply(200, command(rows=2))], "has 2 rows, 1 came"),
    ],
)
def test_rows_that_are_not_whole_are_never_taken_for_whole(answers: list[bytes], told: str) -> None:
    with RawServer(answers) as server, client(server) as outhaul, pytest.raises(ResultCut, match=told):
        list(outhaul.rows("cmd_1"))


def test_a_slow_statement_is_waited_for_and_no_row_comes_twice() -> None:
    first, second = b'{"n": 1}\n', b'{"n": 2}\n'
    answers = [
        chunked(first, whole=False) + RawServer.HOLD,
        reply(200, command("running")),
        chunked(first, second),
        reply(200, command(rows=2)),
    ]
    with RawServer(answers) as server, client(server, silence_s=0.2) as outhaul:
        assert list(outhaul.rows("cmd_1")) == [{"n": 1}, {"n": 2}]


def test_silence_after_the_end_is_a_cut() -> None:
    answers = [chunked(b'{"n": 1}\n', whole=False) + RawServer.HOLD, reply(200, command())]
    with RawServer(answers) as server, client(server, silence_s=0.2) as outhaul:
        rows = outhaul.rows("cmd_1")
        assert next(rows) == {"n": 1}
        with pytest.raises(ResultCut, match="stopped after 9 bytes"):
            next(rows)


def test_lists_are_read_page_by_page_and_only_as_far_as_wanted() -> None:
    pages = [
        reply(200, b'{"items": [' + command(id="cmd_1") + b'], "next": "c2"}'),
        reply(200, b'{"items": [' + command(id="cmd_2") + b'], "next": null}'),
    ]
    with RawServer(pages) as server, client(server) as outhaul:
        found = outhaul.commands(state="succeeded")
        assert next(found).id == "cmd_1"
        assert len(server.requests) == 1
        assert [item.id for item in found] == ["cmd_2"]
        assert server.requests[1].startswith("GET /v1/commands?state=succeeded&cursor=c2 ")


def test_a_list_that_never_ends_is_noticed() -> None:
    answer = reply(200, b'{"items": [], "next": "c"}')
    with RawServer([answer]) as server, client(server) as outhaul, pytest.raises(UnknownAnswer, match="same page"):
        outhaul.agents()


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"<html>welcome</html>", "text/html"),
        reply(200, b"[]"),
        reply(200, b'{"items": [{"name": 1}]}'),
        reply(404, b"<html>", "text/html"),
        reply(302, b"", Location="https://login.example"),
    ],
)
def test_something_that_is_no_broker_is_told_apart(answer: bytes) -> None:
    with RawServer([answer]) as server, client(server) as outhaul, pytest.raises(UnknownAnswer):
        outhaul.agents()


def test_a_proxys_no_keeps_its_status() -> None:
    answer = reply(403, b"<html>", "text/html")
    with RawServer([answer]) as server, client(server) as outhaul, pytest.raises(ProblemError) as told:
        outhaul.agents()
    assert "answers 403" in str(told.value)
    assert told.value.status == 403


def test_outputs_keep_their_values_and_raw_keeps_the_text() -> None:
    body = command(outputs={"total": "12.50", "count": 123456789012345678901234567890})
    with RawServer([reply(200, body)]) as server, client(server) as outhaul:
        found = outhaul.command("cmd_1")
    assert found.outputs == {"total": "12.50", "count": 123456789012345678901234567890}
    assert found.raw == body


def test_a_name_is_one_segment_of_the_path_whatever_is_in_it() -> None:
    with RawServer([reply(200, b'{"items": [], "next": null}')]) as server, client(server) as outhaul:
        outhaul.operations("../keys?x=1/ä")
        assert server.requests[0].startswith("GET /v1/agents/..%2Fkeys%3Fx%3D1%2F%C3%A4/operations ")
        with pytest.raises(WordsError, match="wants a name"):
            outhaul.operations("..")
        with pytest.raises(WordsError, match="idempotency key: wants visible"):
            outhaul.call("plant-1", "rows", idempotency_key="a\r\nX: y")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://broker.example.com/", "https://broker.example.com"),
        (" http://127.0.0.1:8440 ", "http://127.0.0.1:8440"),
        ("http://[::1]:8440", "http://[::1]:8440"),
        ("http://localhost:8440", "http://localhost:8440"),
    ],
)
def test_addresses_that_can_be_used(url: str, wanted: str) -> None:
    assert checked_url(url) == wanted


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("broker.example.com", "wants the broker's address"),
        ("ftp://broker", "wants the broker's address"),
        ("https://", "wants the broker's address"),
        ("https://broker:port", "wants the broker's address"),
        ("http://broker.example.com", "in clear"),
        ("http://127.0.0.1.evil.example", "in clear"),
        ("https://user:pass@broker", "must not contain a user"),
    ],
)
def test_addresses_that_must_not_be_used(url: str, told: str) -> None:
    with pytest.raises(ProfileError, match=told) as found:
        checked_url(url)
    assert "pass@" not in str(found.value)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\r\nX: y", "schlüssel"])
def test_a_key_that_can_be_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ProfileError, match="wants an API key"):
        Outhaul("https://broker.example.com", key)


def test_pauses_grow_and_end() -> None:
    assert list(pauses_s(lambda: 1.0)) == [0.25, 0.5, 1.0, None]


def own_certificate(folder: Path) -> Path:
    """Make a certificate of this machine's address that nobody has signed; return the file with it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker of the test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = folder / "broker.pem"
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


def test_only_a_trusted_certificate_gets_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = own_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    with RawServer([reply(200, b'{"items": [], "next": null}')], tls) as server:
        with (
            client(server) as outhaul,
            pytest.raises(NotReachable, match=r"not trusted here: .* SSL_CERT_FILE may name"),
        ):
            outhaul.agents()
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with client(server) as outhaul:
            assert outhaul.agents() == []
