"""Which connection a request goes over, and what is known when one breaks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.connectors.soap.driver import SoapDriver
from agent.errors import Cancelled, OutcomeUnknown
from tests.agent.connectors.conftest import MakeSoapDriver, call, outputs, run
from tests.agent.connectors.soap_peers import answer, envelope

BALANCE = answer(envelope('<GetBalanceResponse xmlns="urn:example:finance">1.50</GetBalanceResponse>'))
OTHER = answer(envelope('<GetBalanceResponse xmlns="urn:example:finance">666</GetBalanceResponse>'))
ASKED = {"GetBalance": "x"}


@dataclass
class Keeping:
    """
    A server that keeps its connections, and answers each request with the next of ``replies``.

    Attributes:
        replies: of each connection; ``b""`` closes it once the request was read.
        asked: how many requests came over each connection.
        requests: all of them.
        closed: set when it has closed a connection.
    """

    port: int = 0
    replies: list[list[bytes]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/x"


@contextlib.contextmanager
def keeping(*replies: list[bytes]) -> Iterator[Keeping]:
    """Start a server whose connections give ``replies``, those of each in turn, and close after the last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Keeping(listener.getsockname()[1], list(replies))
        thread = threading.Thread(target=_serve, args=(listener, server), name="keeping", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(10)


def _serve(listener: socket.socket, server: Keeping) -> None:
    for number, replies in enumerate(server.replies):
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        server.asked.append(0)
        with connection, contextlib.suppress(OSError):
            for reply in replies:
                request = b""
                while b"Envelope>" not in request:
                    piece = connection.recv(65_536)
                    if not piece:
                        break
                    request += piece
                else:
                    server.asked[number] += 1
                    server.requests.append(request)
                    connection.sendall(reply)
        server.closed.set()


def driver_of(soap_driver: MakeSoapDriver, server: Keeping, effect: str, **more: Any) -> SoapDriver:
    return soap_driver("GetBalance", {"effect": effect}, endpoint=server.url, **more)


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_what_may_run_again_goes_over_one_connection(soap_driver: MakeSoapDriver, effect: str) -> None:
    with keeping([BALANCE] * 5) as server:
        driver = driver_of(soap_driver, server, effect)
        for _ in range(5):
            assert outputs(driver, ASKED) == {"GetBalanceResponse": "1.50"}
        assert server.asked == [5]


def test_what_may_run_once_has_a_connection_of_its_own(soap_driver: MakeSoapDriver) -> None:
    with keeping([BALANCE], [BALANCE], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "at-most-once")
        for _ in range(3):
            outputs(driver, ASKED)
        assert server.asked == [1, 1, 1]


def test_a_kept_connection_that_was_closed_is_replaced(soap_driver: MakeSoapDriver) -> None:
    with keeping([BALANCE], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "read")
        outputs(driver, ASKED)
        assert server.closed.wait(10)
        outputs(driver, ASKED)
        assert server.asked == [1, 1]


def test_a_kept_connection_that_closes_under_the_request_is_asked_again_elsewhere(soap_driver: MakeSoapDriver) -> None:
    with keeping([BALANCE, b""], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "read")
        for _ in range(2):
            assert outputs(driver, ASKED) == {"GetBalanceResponse": "1.50"}
        assert server.asked == [2, 1]


def test_a_new_connection_that_closes_under_the_request_is_not_asked_again(soap_driver: MakeSoapDriver) -> None:
    with keeping([b""], [BALANCE]) as server:
        with pytest.raises(OutcomeUnknown, match="contact was lost"):
            run(driver_of(soap_driver, server, "read"), ASKED)
        assert server.asked == [1]


def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_next_one(soap_driver: MakeSoapDriver) -> None:
    with keeping([BALANCE + OTHER, OTHER], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "read")
        for _ in range(2):
            assert outputs(driver, ASKED) == {"GetBalanceResponse": "1.50"}
        assert server.asked == [1, 1]


@pytest.mark.parametrize(
    "reply",
    [
        answer(envelope('<GetBalanceResponse xmlns="urn:example:finance">x</GetBalanceResponse>')),
        answer(b"no xml"),
        answer(b"<a>" + b"x" * 5_000),
        answer(b"x", "500 Error"),
    ],
    ids=["value", "no xml", "cut", "status"],
)
def test_after_an_answer_that_was_refused_the_next_one_is_right(soap_driver: MakeSoapDriver, reply: bytes) -> None:
    with keeping([reply, BALANCE], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "read")
        with contextlib.suppress(Exception):
            run(driver, ASKED)
        assert outputs(driver, ASKED) == {"GetBalanceResponse": "1.50"}


def test_a_server_that_wants_to_close_is_let(soap_driver: MakeSoapDriver) -> None:
    closing = BALANCE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with keeping([closing], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "read")
        for _ in range(2):
            outputs(driver, ASKED)
        assert server.asked == [1, 1]


def test_a_cancel_before_the_first_step_is_not_lost(soap_driver: MakeSoapDriver) -> None:
    with keeping([BALANCE], [BALANCE]) as server:
        driver = driver_of(soap_driver, server, "at-most-once")
        pieces = driver.run(call(ASKED))
        driver.cancel()
        with pytest.raises(Cancelled) as caught:
            list(pieces)
        assert not caught.value.touched
        assert outputs(driver, ASKED) == {"GetBalanceResponse": "1.50"}


def test_a_check_after_a_cancel_is_not_cancelled(soap_driver: MakeSoapDriver) -> None:
    auth = {"scheme": "basic", "username": "svc", "password": "x"}
    driver = soap_driver("GetBalance", auth=auth)
    driver.cancel()
    assert [finding.ok for finding in driver.check()] == [True, True]


def test_basic_credentials_and_actions_stand_in_every_request(soap_driver: MakeSoapDriver) -> None:
    auth = {"scheme": "basic", "username": "svc", "password": "pä"}
    with keeping([BALANCE] * 2) as server:
        driver = driver_of(soap_driver, server, "read", auth=auth)
        for _ in range(2):
            outputs(driver, ASKED)
        assert server.asked == [2]
        for request in server.requests:
            assert b"Authorization: Basic c3ZjOnDDpA==\r\n" in request
            assert b'SOAPAction: "urn:example:finance:GetBalance"\r\n' in request
