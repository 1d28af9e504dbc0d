"""EST as other people's tools speak it: openssl makes the request, curl sends it, and the broker lets the agent in."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

from cloud_broker.api.services import Services
from cloud_broker.identity.authority import Authority
from tests.agent.link.certificates import csr
from tests.cloud_broker.plain_agent import ACME, PlainAgent, broker

ENROLL = "/.well-known/est/simpleenroll"


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Services]:
    """A broker."""
    async with broker(tmp_path) as services:
        yield services


async def run(*words: str) -> str:
    """What a program prints."""
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def token(there: Services, name: str = "plant-1") -> str:
    text, _ = await there.issue_token(ACME, name, "plants", 60.0, "test")
    return text


def certificates(answer: httpx2.Response) -> list[x509.Certificate]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.headers["content-transfer-encoding"] == "base64"
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))


async def enroll(
    there: Services, name: str, password: str, request: bytes, media_type: str = "application/pkcs10"
) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=there.settings.api_url, timeout=30) as client:
        return await client.post(
            ENROLL, content=base64.encodebytes(request), headers={"Content-Type": media_type}, auth=(name, password)
        )


async def test_openssl_and_curl_enrol_an_agent(tmp_path: Path, there: Services) -> None:
    key, request, answer = (str(tmp_path / name) for name in ("agent.key", "request.b64", "answer.b64"))
    made = await run(
        *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", key, "-subj", "/CN=plant-1"),
    )
    unwrap(made, request)
    url = there.settings.api_url
    sent = ("curl", "--silent", "--show-error", "--fail-with-body", "--output")
    await run(*sent, answer, f"{url}/.well-known/est/cacerts")
    roots = await run("openssl", "pkcs7", "-inform", "DER", "-print_certs", "-in", decoded(answer))
    await run(
        *(*sent, answer, "--user", f"plant-1:{await token(there)}", "--data-binary", f"@{request}"),
        *("--header", "Content-Type: application/pkcs10", url + ENROLL),
    )
    issued = await run("openssl", "pkcs7", "-inform", "DER", "-print_certs", "-in", decoded(answer))

    certificate = x509.load_pem_x509_certificate(issued.encode())
    root = x509.load_pem_x509_certificate(roots.encode())
    agent = PlainAgent(
        tmp_path / "agent",
        there.settings.link.url,
        [root.public_bytes(Encoding.DER)],
        certificate.public_bytes(Encoding.DER),
    )
    agent.key = private(key)
    async with agent.link():
        known = await there.store.agent(ACME, "plant-1")
        assert known is not None
        assert (known.serial, known.group) == (agent.serial, "plants")


def unwrap(pem: str, path: str) -> None:
    """Write the base64 of a PEM block to a file, as EST wants it."""
    Path(path).write_text("".join(line + "\n" for line in pem.splitlines() if "-----" not in line))


def private(path: str) -> ec.EllipticCurvePrivateKey:
    """The key in a file."""
    key = load_pem_private_key(Path(path).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def decoded(path: str) -> str:
    """The file with the base64 taken off."""
    der = f"{path}.der"
    Path(der).write_bytes(base64.b64decode(Path(path).read_bytes()))
    return der


async def test_the_same_key_with_the_same_token_gets_the_same_certificate(there: Services) -> None:
    key, text = ec.generate_private_key(ec.SECP256R1()), await token(there)
    secret = json.loads(base64.urlsafe_b64decode(text.partition(".")[2] + "=="))["secret"]
    [first] = certificates(await enroll(there, "plant-1", text, csr(key)))
    [again] = certificates(await enroll(there, "plant-1", secret, csr(key)))
    assert first == again
    other = await enroll(there, "plant-1", text, csr(ec.generate_private_key(ec.SECP256R1())))
    assert other.status_code == 401
    assert "used already" in other.json()["detail"]


async def test_whom_to_trust_is_told_to_everybody(tmp_path: Path, there: Services) -> None:
    async with httpx2.AsyncClient(base_url=there.settings.api_url, timeout=30) as client:
        [root] = certificates(await client.get("/.well-known/est/cacerts"))
    assert root == Authority.load(tmp_path / "data").certificate


async def test_who_is_refused_is_told_how_to_be_let_in(there: Services) -> None:
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    text = await token(there)
    for name, password, sentence in (
        ("plant-1", "wrong", "unknown token"),
        ("plant-2", text, "unknown token"),
        ("plant-1", "oht1.damaged", "cut or damaged"),
        ("plant-1", "oht1." + base64.urlsafe_b64encode(b'{"secret":"\\ud800"}').decode(), "cut or damaged"),
    ):
        answer = await enroll(there, name, password, request)
        assert (answer.status_code, sentence in answer.json()["detail"]) == (401, True), answer.text
        assert answer.headers["www-authenticate"].startswith("Basic ")
    async with httpx2.AsyncClient(base_url=there.settings.api_url, timeout=30) as client:
        headers = {"Content-Type": "application/pkcs10"}
        answer = await client.post(ENROLL, content=b"AAAA", headers=headers)
        assert (answer.status_code, "HTTP Basic" in answer.json()["detail"]) == (401, True)
    certificates(await enroll(there, "plant-1", text, request))


async def test_a_wrong_request_does_not_spend_the_token(there: Services) -> None:
    text = await token(there)
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    assert (await enroll(there, "plant-1", text, b"no request")).status_code == 400
    assert (await enroll(there, "plant-1", text, request, "application/json")).status_code == 415
    assert (await enroll(there, "plant-1", text, b"x" * 40_000)).status_code == 413
    async with httpx2.AsyncClient(base_url=there.settings.api_url, timeout=30) as client:
        headers = {"Content-Type": "application/pkcs10"}
        answer = await client.post(ENROLL, content=b"!", headers=headers, auth=("plant-1", text))
        assert (answer.status_code, "in base64" in answer.json()["detail"]) == (400, True)
    certificates(await enroll(there, "plant-1", text, request))


async def test_who_guesses_waits(there: Services) -> None:
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    started = time.monotonic()
    answers = [await enroll(there, "plant-1", f"guess-{number}", request) for number in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert 60 - (time.monotonic() - started) - 2 <= int(answers[-1].headers["retry-after"]) <= 60
