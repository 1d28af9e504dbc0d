"""Calls of a real SOAP service (node): values both ways, logins, faults, faults of the line."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from agent.connectors import CONNECTORS
from agent.connectors.base import Call, DriverSetup, Outputs
from agent.connectors.sessions import DriverConnector
from agent.errors import (
    Cancelled,
    CommandError,
    OutcomeUnknown,
    ParametersInvalid,
    SourceFailed,
    SourceRejected,
    SourceUnavailable,
)
from agent.leaving import MASKED
from agent.settings import CallOperation, Param, SoapConnection
from config.dev.finance import FinanceService, finance_service
from tests.agent.connectors.conftest import MakeSoapDriver, outputs, run
from tests.agent.connectors.soap_peers import Pair, issue

INVOICE: dict[str, Any] = {
    "invoiceNo": "RE1",
    "customer": "Müller & Söhne <Köln>",
    "amount": "1234567890123456.78",
    "currency": "EUR",
    "dueDate": "2026-01-31",
    "urgent": True,
    "scan": "AAEC/w==",
    "line": [
        {"account": "4400", "amount": "12.50", "quantity": 2, "text": None},
        {"account": "4401", "amount": 3, "text": "x"},
    ],
}


def invoice(number: str, **more: Any) -> dict[str, Any]:
    return {**INVOICE, "invoiceNo": number, **more}


# --- values -------------------------------------------------------------------------------------


def test_an_invoice_is_posted_and_found_again_as_it_was(soap_driver: MakeSoapDriver, finance: FinanceService) -> None:
    answer = outputs(soap_driver("PostInvoice"), invoice("RE1001"))
    assert set(answer) == {"documentNo", "total", "postedAt"}
    assert answer["documentNo"] >= 4_900_000_001
    assert answer["total"] == "1234567890123456.78"
    assert datetime.fromisoformat(answer["postedAt"]).tzinfo is not None
    held = [one for one in finance.posted()["invoices"] if one["invoiceNo"] == "RE1001"]
    assert [one["amount"] for one in held] == ["1234567890123456.78"]
    found = outputs(soap_driver("FindInvoice"), {"invoiceNo": "RE1001"})
    assert found["found"] is True
    assert found["documentNo"] == answer["documentNo"]
    lines = [{"quantity": None, **line} for line in INVOICE["line"]]
    assert found["invoice"] == {**invoice("RE1001"), "line": [lines[0], {**lines[1], "amount": "3"}]}


def test_what_is_absent_is_null_and_lists_are_lists(soap_driver: MakeSoapDriver) -> None:
    assert outputs(soap_driver("FindInvoice"), {"invoiceNo": "ZZ9"}) == {
        "found": False,
        "documentNo": None,
        "invoice": None,
    }
    orders = soap_driver("GetOrders")
    for count in (0, 1, 3):
        answer = outputs(orders, {"customer": "C1", "count": count})
        assert [order["orderNo"] for order in answer["order"]] == [f"C1-{n + 1}" for n in range(count)]


def test_a_single_plain_answer_stands_under_its_elements_name(soap_driver: MakeSoapDriver) -> None:
    answer = outputs(soap_driver("GetBalance"), {"GetBalance": "all"})
    assert list(answer) == ["GetBalanceResponse"]
    assert re.fullmatch(r"-?\d+\.\d\d", answer["GetBalanceResponse"])


def test_a_type_that_holds_itself_goes_both_ways(soap_driver: MakeSoapDriver) -> None:
    tree = {
        "name": "a",
        "code": "1",
        "part": [{"name": "b", "code": "2", "part": [{"name": "c", "code": "3", "part": []}]}],
    }
    assert outputs(soap_driver("SaveCostCentre"), tree) == tree


def test_rpc_takes_its_parts_and_returns_them(soap_driver: MakeSoapDriver, finance: FinanceService) -> None:
    driver = soap_driver("AddEntry", wsdl=str(finance.ledger_wsdl), endpoint=finance.ledger_url)
    before = len(finance.posted()["entries"])
    answer = outputs(driver, {"account": "4400", "amount": "0.30"})
    assert answer["entries"] == before + 1
    assert answer["balance"].endswith(".30")
    assert finance.posted()["entries"][-1] == {"account": "4400", "amount": "0.30"}


def test_masked_fields_do_not_leave_however_deep_they_are(soap_driver: MakeSoapDriver) -> None:
    outputs(soap_driver("PostInvoice"), invoice("RE1002"))
    answer = outputs(soap_driver("FindInvoice", {"mask": ("customer", "account")}), {"invoiceNo": "RE1002"})
    assert answer["invoice"]["customer"] == MASKED
    assert [line["account"] for line in answer["invoice"]["line"]] == [MASKED, MASKED]


def test_declared_parameters_are_taken_by_their_own_types(soap_driver: MakeSoapDriver, finance: FinanceService) -> None:
    params = {
        "invoiceNo": Param(),
        "customer": Param(default="C1"),
        "amount": Param(type="decimal"),
        "currency": Param(default="EUR"),
        "dueDate": Param(type="date"),
        "scan": Param(type="binary", required=False),
        "urgent": Param(type="boolean", required=False),
    }
    driver = soap_driver("PostInvoice", {"params": params})
    outputs(driver, {"invoiceNo": "RE1003", "amount": "1.00", "dueDate": "2026-02-28", "scan": "AAEC"})
    held = next(one for one in finance.posted()["invoices"] if one["invoiceNo"] == "RE1003")
    assert {name: held.get(name) for name in params} == {
        "invoiceNo": "RE1003",
        "customer": "C1",
        "amount": "1.00",
        "currency": "EUR",
        "dueDate": "2026-02-28",
        "scan": "AAEC",
        "urgent": None,
    }
    assert driver.describe("op") is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"invoiceno": "x"}, r"invoiceno: is not in the WSDL; the fields are invoiceNo, customer"),
    ({"amount": "1.234"}, r"amount: wants a decimal .*2 digits after the point.*, found \"1.234\""),
    ({"amount": "12,50"}, r"amount: wants a decimal"),
    ({"amount": None}, r"amount: wants a decimal .*found null"),
    ({"currency": "GBP"}, r"currency: wants one of 'EUR', 'CHF', 'USD', found \"GBP\""),
    ({"dueDate": "31.01.2026"}, r"dueDate: wants a date"),
    ({"dueDate": "2026-02-30"}, r"dueDate: wants a date"),
    ({"urgent": "yes"}, r"urgent: wants true or false"),
    ({"scan": "!"}, r"scan: wants bytes in base64"),
    ({"invoiceNo": "abc"}, r"invoiceNo: wants text of at most 12 characters that matches"),
    ({"invoiceNo": "AB12345678901"}, r"invoiceNo: wants"),
    ({"line": {}}, r"line: wants a list, found an object"),
    ({"line": [1]}, r"line\[1\]: wants an object, found 1"),
    ({"line": [INVOICE["line"][1], {"account": "1"}]}, r"line\[2\].amount: wants a decimal .*found nothing"),
    ({"line": [{"account": "1", "amount": 1, "quantity": 2**31}]}, r"line\[1\].quantity: wants a whole number"),
    ({"line": [{"account": "1", "amount": 1, "text": "x" * 61}]}, r"line\[1\].text: wants text of at most 60"),
    ({"customer": {"a": 1}}, r"customer: wants text, found an object"),
    ({"customer": "a\x01"}, r"the WSDL refuses|customer"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_request_is_refused_before_it_is_sent(
    soap_driver: MakeSoapDriver, finance: FinanceService, change: dict[str, Any], reason: str
) -> None:
    before = len(finance.posted()["invoices"])
    with pytest.raises(ParametersInvalid, match=reason) as caught:
        run(soap_driver("PostInvoice"), invoice("RE1") | change)
    assert not caught.value.touched
    assert len(finance.posted()["invoices"]) == before


# --- schemas ------------------------------------------------------------------------------------


def validator(driver: Any) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(driver.describe("op"))


@pytest.mark.parametrize(("change", "_reason"), WRONG[:-1], ids=lambda value: repr(value)[:40])
def test_the_schema_refuses_most_of_that_too(soap_driver: MakeSoapDriver, change: dict[str, Any], _reason: str) -> None:
    described = validator(soap_driver("PostInvoice"))
    assert described.is_valid(INVOICE)
    if change != {"dueDate": "2026-02-30"}:  # formats are remarks, not rules
        assert not described.is_valid(INVOICE | change)


def test_a_schema_of_a_type_that_holds_itself_ends(soap_driver: MakeSoapDriver) -> None:
    described = validator(soap_driver("SaveCostCentre"))
    assert described.is_valid({"name": "a", "code": "1", "part": [{"name": "b", "code": "2"}]})
    assert not described.is_valid({"name": "a", "code": "1", "part": [{"name": "b", "code": "2", "part": [{}]}]})


@pytest.mark.parametrize("name", ["GetOrders", "GetSlowly", "GetBalance", "FindInvoice", "Fail"])
def test_every_operation_has_a_schema_that_wants_its_fields(soap_driver: MakeSoapDriver, name: str) -> None:
    assert not validator(soap_driver(name)).is_valid({})
    assert not validator(soap_driver(name)).is_valid({"unknown": 1})


# --- faults -------------------------------------------------------------------------------------


def test_a_business_fault_is_the_erps_no(soap_driver: MakeSoapDriver) -> None:
    driver = soap_driver("PostInvoice", {"business_faults": ("PeriodClosed",)})
    with pytest.raises(SourceRejected, match=r"^The period 2019-12 is closed\.$") as caught:
        run(driver, invoice("RE2", dueDate="2019-12-31"))
    assert caught.value.source_code == "PeriodClosed"


@pytest.mark.parametrize(
    ("how", "effect", "error", "code"),
    [
        ("client", "at-most-once", SourceFailed, "Client"),
        ("server", "at-most-once", OutcomeUnknown, "Server"),
        ("server", "read", SourceFailed, "Server"),
        ("own", "at-most-once", OutcomeUnknown, "BUDGET_EXCEEDED"),
        ("break", "at-most-once", OutcomeUnknown, ""),
    ],
)
def test_other_faults_are_technical(
    soap_driver: MakeSoapDriver, how: str, effect: str, error: type[CommandError], code: str
) -> None:
    with pytest.raises(error) as caught:
        run(soap_driver("Fail", {"effect": effect}), {"how": how})
    assert type(caught.value) is error
    assert caught.value.source_code == code


def test_a_declared_fault_that_is_no_business_is_certain_to_have_had_no_effect(soap_driver: MakeSoapDriver) -> None:
    with pytest.raises(SourceFailed, match="The period 2019-12 is closed") as caught:
        run(soap_driver("PostInvoice"), invoice("RE2", dueDate="2019-12-31"))
    assert caught.value.source_code == "PeriodClosed"


def test_codes_of_its_own_can_be_business(soap_driver: MakeSoapDriver) -> None:
    with pytest.raises(SourceRejected, match="budget is used up"):
        run(soap_driver("Fail", {"business_faults": ("BUDGET_EXCEEDED",)}), {"how": "own"})


# --- time ---------------------------------------------------------------------------------------


def test_no_answer_in_time_means_that_nobody_knows(soap_driver: MakeSoapDriver) -> None:
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="no whole answer came in time"):
        run(soap_driver("GetSlowly"), {"seconds": 3}, timeout_s=0.4)
    assert time.monotonic() - started < 2


def test_a_slow_answer_within_the_time_is_taken(soap_driver: MakeSoapDriver) -> None:
    assert outputs(soap_driver("GetSlowly"), {"seconds": 0.2}) == {"waited": 0.2}


def test_cancel_ends_the_waiting(soap_driver: MakeSoapDriver) -> None:
    driver = soap_driver("GetSlowly")
    ended: list[CommandError] = []

    def wait() -> None:
        try:
            run(driver, {"seconds": 5})
        except CommandError as exc:
            ended.append(exc)

    thread = threading.Thread(target=wait)
    started = time.monotonic()
    thread.start()
    while thread.is_alive() and time.monotonic() - started < 10:
        driver.cancel()
        thread.join(0.05)
    # Before the request was sent it came in time; after that nobody knows.
    assert [type(exc) in (Cancelled, OutcomeUnknown) for exc in ended] == [True]
    assert time.monotonic() - started < 4


def test_a_refused_connection_touched_nothing(soap_driver: MakeSoapDriver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="can't be reached") as caught:
        run(soap_driver("GetBalance", endpoint=f"http://127.0.0.1:{port}/x"), {"GetBalance": "x"})
    assert not caught.value.touched


def test_a_host_without_an_address_touched_nothing(soap_driver: MakeSoapDriver) -> None:
    with pytest.raises(SourceUnavailable, match=r"nowhere\.invalid"):
        run(soap_driver("GetBalance", endpoint="http://nowhere.invalid/x"), {"GetBalance": "x"})


# --- logins -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["basic", "digest", "wsse"])
def guarded(request: pytest.FixtureRequest) -> Iterator[tuple[str, FinanceService]]:
    with finance_service(auth=request.param, username="svc", password='pä"ss: \\word') as service:
        yield request.param, service


@pytest.mark.parametrize("digest", [False, True])
def test_who_knows_the_password_is_let_in(
    soap_driver: MakeSoapDriver, guarded: tuple[str, FinanceService], digest: bool
) -> None:
    scheme, service = guarded
    auth = {"scheme": scheme, "username": "svc", "password": 'pä"ss: \\word', "digest": digest}
    driver = soap_driver("GetOrders", endpoint=service.url, auth=auth)
    for count in (1, 2):
        assert len(outputs(driver, {"customer": "C1", "count": count})["order"]) == count


@pytest.mark.parametrize("password", ["wrong", None])
def test_who_does_not_is_told_so_without_the_password(
    soap_driver: MakeSoapDriver, guarded: tuple[str, FinanceService], password: str | None
) -> None:
    scheme, service = guarded
    auth = {"scheme": scheme, "username": "svc", "password": "s3cr3t"} if password else {"scheme": "none"}
    driver = soap_driver("GetOrders", {"effect": "read"}, endpoint=service.url, auth=auth)
    with pytest.raises(SourceFailed) as caught:
        run(driver, {"customer": "C1"})
    assert "s3cr3t" not in caught.value.message
    if scheme != "wsse":  # the service answers these with a fault of its own
        assert "did not let us in (HTTP 401)" in caught.value.message


@dataclass(frozen=True)
class Guarded:
    service: FinanceService
    authority: Pair
    client: Pair


@pytest.fixture(scope="module")
def mutual() -> Iterator[Guarded]:
    authority = issue("authority")
    server, client = issue("server", authority), issue("client", authority)
    trust = ssl.create_default_context(cadata=authority.certificate)
    tls = {"cert": server.certificate, "key": server.key, "ca": authority.certificate}
    with finance_service(tls=tls, trust=trust) as service:
        yield Guarded(service, authority, client)


def pem_files(folder: Path, mutual: Guarded, client: Pair) -> dict[str, Any]:
    for name, text in (
        ("ca.pem", mutual.authority.certificate),
        ("client.pem", client.certificate),
        ("client.key", client.key),
    ):
        (folder / name).write_text(text)
    auth = {"scheme": "certificate", "certificate": "client.pem", "key": "client.key"}
    return {"endpoint": mutual.service.url, "ca": "ca.pem", "auth": auth}


def test_a_client_certificate_lets_us_in(soap_driver: MakeSoapDriver, mutual: Guarded, tmp_path: Path) -> None:
    driver = soap_driver("GetOrders", **pem_files(tmp_path, mutual, mutual.client))
    assert len(outputs(driver, {"customer": "C1"})["order"]) == 3
    assert [finding.ok for finding in [*driver.check(), *driver.check("op")]] == [True, True, True]


def test_without_a_client_certificate_there_is_no_answer(
    soap_driver: MakeSoapDriver, mutual: Guarded, tmp_path: Path
) -> None:
    settings = pem_files(tmp_path, mutual, mutual.client) | {"auth": {"scheme": "none"}}
    with pytest.raises((SourceFailed, OutcomeUnknown)):
        run(soap_driver("GetOrders", **settings), {"customer": "C1"})


def test_a_service_whose_authority_is_unknown_is_not_spoken_to(
    soap_driver: MakeSoapDriver, mutual: Guarded, tmp_path: Path
) -> None:
    settings = pem_files(tmp_path, mutual, mutual.client)
    (tmp_path / "ca.pem").write_text(issue("another").certificate)
    with pytest.raises(SourceUnavailable, match=r"not trusted.*`ca`") as caught:
        run(soap_driver("GetOrders", **settings), {"customer": "C1"})
    assert not caught.value.touched


@pytest.mark.parametrize("missing", ["ca.pem", "client.pem", "client.key"])
def test_a_file_that_is_missing_is_named(
    soap_driver: MakeSoapDriver, mutual: Guarded, tmp_path: Path, missing: str
) -> None:
    settings = pem_files(tmp_path, mutual, mutual.client)
    (tmp_path / missing).unlink()
    with pytest.raises(SourceFailed, match=r"ca\.pem|client\.pem"):
        soap_driver("GetOrders", **settings)


# --- check --------------------------------------------------------------------------------------


def test_check_finds_operation_and_endpoint(soap_driver: MakeSoapDriver) -> None:
    driver = soap_driver("PostInvoice")
    findings = [*driver.check(), *driver.check("op")]
    assert [finding.ok for finding in findings] == [True, True, True]
    assert "plain HTTP" in findings[1].detail


@pytest.mark.parametrize(
    ("name", "operation", "detail"),
    [
        ("PostInvoise", {}, r"no operation 'PostInvoise'; it has: Fail, FindInvoice"),
        ("PostInvoice", {"service": "X"}, r"no service 'X'; it has: FinanceService"),
        ("PostInvoice", {"port": "X"}, r"no port 'X'; it has: FinancePort"),
    ],
)
def test_check_tells_what_the_wsdl_has_instead(
    soap_driver: MakeSoapDriver, name: str, operation: dict[str, Any], detail: str
) -> None:
    (finding,) = soap_driver(name, operation).check("op")
    assert finding.ok is False
    assert re.search(detail, finding.detail)
    with pytest.raises(SourceFailed, match=detail):
        run(soap_driver(name, operation), {})


def test_check_tells_when_nobody_listens(soap_driver: MakeSoapDriver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    findings = list(soap_driver("PostInvoice", endpoint=f"http://127.0.0.1:{port}/x").check())
    assert [(finding.ok, finding.code) for finding in findings] == [(True, ""), (False, "soap.unreachable")]


# --- where the WSDL comes from ------------------------------------------------------------------


def test_a_wsdl_may_come_by_url(soap_driver: MakeSoapDriver, finance: FinanceService) -> None:
    driver = soap_driver("GetOrders", wsdl=f"{finance.url}?wsdl")
    assert len(outputs(driver, {"customer": "C1"})["order"]) == 3


def test_a_wsdl_stands_beside_the_operators_file(
    soap_driver: MakeSoapDriver, finance: FinanceService, tmp_path: Path
) -> None:
    (tmp_path / "beside.wsdl").write_bytes(finance.wsdl.read_bytes())
    assert outputs(soap_driver("GetOrders", wsdl="beside.wsdl"), {"customer": "C1", "count": 0}) == {"order": []}


# --- in its process -----------------------------------------------------------------------------


async def test_through_a_driver_process_it_calls_describes_checks_and_lets_go(finance: FinanceService) -> None:
    connection = SoapConnection(type="soap", wsdl=str(finance.wsdl), endpoint=finance.url)
    operations: dict[str, Any] = {
        "orders": CallOperation(connection="finance", call="GetOrders"),
        "slow": CallOperation(connection="finance", call="GetSlowly"),
    }
    connector = DriverConnector(DriverSetup("finance", connection, operations), CONNECTORS["soap"])
    try:
        pieces = [piece async for piece in connector.run(Call("cmd_1", "orders", b'{"customer": "C1"}', 20.0))]
        assert isinstance(pieces[-1], Outputs)
        assert len(msgspec.json.decode(pieces[-1].values["order"])) == 3
        described = await connector.describe("orders")
        assert described is not None
        assert described["required"] == ["customer"]
        assert [finding.ok for finding in await connector.check()] == [True, True]
        assert [finding.ok for finding in await connector.check("slow")] == [True]
        with pytest.raises(OutcomeUnknown, match="in time"):
            async for _ in connector.run(Call("cmd_2", "slow", b'{"seconds": 9}', 0.5)):
                pass
    finally:
        await connector.close()


async def test_nine_callers_are_answered_while_a_tenth_is_slow(finance: FinanceService) -> None:
    connection = SoapConnection(type="soap", wsdl=str(finance.wsdl), endpoint=finance.url)
    operations: dict[str, Any] = {
        "orders": CallOperation(connection="finance", call="GetOrders", effect="read"),
        "slow": CallOperation(connection="finance", call="GetSlowly", effect="read"),
    }
    connector = DriverConnector(DriverSetup("finance", connection, operations), CONNECTORS["soap"])

    async def ask(number: int, operation: str, params: bytes) -> int:
        return len([piece async for piece in connector.run(Call(f"cmd_{number}", operation, params, 90.0))])

    slow = asyncio.create_task(ask(0, "slow", b'{"seconds": 80}'))
    try:
        for _ in range(2):  # the second time over connections that were kept
            assert await asyncio.gather(*(ask(n, "orders", b'{"customer": "C1"}') for n in range(1, 10))) == [1] * 9
        assert not slow.done()
    finally:
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await connector.close()
