"""What the demo shows, step by step; each is proved where it counts: in the ERP's own tables, folder and service."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import time
import tomllib
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from cloud_broker.client.errors import ProblemError
from config.dev import processes
from config.dev.demo import trust
from config.dev.demo.erp import Erp
from config.dev.demo.pair import AGENT, Pair
from config.dev.demo.programs import LOOK_S, Answer, begin, run
from config.dev.demo.story import Story, want

CUSTOMER: Final = "C042"
BLOCKED: Final = "C013"
LINES: Final = '[{"sku": "A-1003", "qty": "2"}, {"sku": "A-1017", "qty": "5"}]'
WAIT_S: Final = 60.0  # seconds for what takes one or two

Step = Callable[[Pair, Erp, Story], None]


def catalogue(pair: Pair, erp: Erp, story: Story) -> None:
    """The caller sees what the operator's file allows."""
    story.says("A caller in the cloud asks which systems there are, and what may be done there.")
    pair.outhaul(story, "agents")
    answer = pair.outhaul(story, "operations", AGENT)
    want(answer.exit_code == 0, f"outhaul operations ended with {answer.exit_code}")
    allowed = set(_operator_file(pair)["operations"])
    with pair.caller() as client:
        seen = {operation.name for operation in client.operations(AGENT)}
    want(seen == allowed, f"the file allows {sorted(allowed)}, the caller sees {sorted(seen)}")
    story.proves(f"the caller sees the {len(allowed)} operations of the operator's file, and no others")


def no_open_port(pair: Pair, erp: Erp, story: Story) -> None:
    """The agent only dials out."""
    story.says("The agent stands behind a firewall that lets nothing in. Which ports does it listen on?")
    try:
        found = processes.of(pair.agent.pid)
    except processes.CannotTell as exc:
        story.proves(f"(could not be checked on this system: {exc})")
        return
    want(not found.listening, f"the agent listens on {sorted(found.listening)}")
    want(pair.link_port in found.connected, f"no connection to the broker's port {pair.link_port}: {found.connected}")
    story.proves(f"none; it dialled the broker on port {pair.link_port}, and everything goes over that one connection")


def procedure(pair: Pair, erp: Erp, story: Story) -> None:
    """A stored procedure with an OUT parameter."""
    total = _total(erp)
    story.says(f"A web shop enters an order of customer {CUSTOMER}: caller → broker → agent → ODBC → stored procedure.")
    number = _order_no(pair.outhaul(story, *_order(CUSTOMER, total), "--idempotency-key", "shop-4711"))
    found = erp.rows("SELECT customer_no, total FROM orders WHERE order_no = ?", number)
    want(found == [(CUSTOMER, total)], f"orders has {found} under {number}")
    lines = erp.value("SELECT count(*) FROM order_lines WHERE order_no = ?", number)
    want(lines == 2, f"order {number} has {lines} lines, 2 were ordered")
    story.proves(f"the ERP's tables have order {number} of {total} with its 2 lines")


def repeated(pair: Pair, erp: Erp, story: Story) -> None:
    """The same idempotency key never has a second effect."""
    story.says("The shop did not hear the answer and sends the same order again, with the same key.")
    before = erp.value("SELECT count(*) FROM orders")
    last = erp.value("SELECT max(order_no) FROM orders")
    number = _order_no(pair.outhaul(story, *_order(CUSTOMER, _total(erp)), "--idempotency-key", "shop-4711"))
    after = erp.value("SELECT count(*) FROM orders")
    want(number == last, f"the answer is order {number}, the first one was {last}")
    want(after == before, f"there were {before} orders, now there are {after}")
    story.proves(f"the same answer, {number}, and no second order: {after:,} before and after")


def refused(pair: Pair, erp: Erp, story: Story) -> None:
    """The ERP says no."""
    story.says("Two orders that the ERP does not want: a blocked customer, and an article that does not exist.")
    before = erp.value("SELECT count(*) FROM orders")
    total = _total(erp)
    for words, reason in (
        (_order(BLOCKED, total), f"customer {BLOCKED}"),
        (_order(CUSTOMER, total, '[{"sku": "X-1", "qty": "1"}]'), "there is no article X-1"),
    ):
        answer = pair.outhaul(story, *words)
        want(answer.exit_code == 1, f"wants exit code 1, found {answer.exit_code}")
        want("rejected" in answer.err and reason in answer.err, f"wants rejected with {reason!r}, found {answer.err!r}")
    after = erp.value("SELECT count(*) FROM orders")
    want(after == before, f"there were {before} orders, now there are {after}")
    story.proves("both came back as rejected, in the ERP's own words, and no order was entered")


def table(pair: Pair, erp: Erp, story: Story) -> None:
    """Rows as a table."""
    story.says(f"What does customer {CUSTOMER} still owe? A function of the database gives rows.")
    answer = pair.outhaul(story, "call", AGENT, "open-invoices", f"customer={CUSTOMER}", "since=2025-01-01")
    want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}")
    truth = erp.rows("SELECT invoice_no, unpaid FROM open_invoices(?, '2025-01-01')", CUSTOMER)
    for invoice, unpaid in truth:
        shown = [line for line in answer.out.splitlines() if invoice in line]
        want(len(shown) == 1 and f" {unpaid} " in shown[0], f"{invoice} with {unpaid} is not in the table")
    want(f"{len(truth)} rows in" in answer.err, f"{len(truth)} invoices are open, found {answer.err!r}")
    owed = sum(unpaid for _, unpaid in truth)
    story.proves(f"the same {len(truth)} invoices and cents as in the ERP: {owed} unpaid")


def stream(pair: Pair, erp: Erp, story: Story) -> None:
    """All rows, to a file."""
    story.says("All invoices to a CSV file: rows leave the database while earlier ones already reach the file.")
    words = ["call", AGENT, "all-invoices", "--format", "csv"]
    file = pair.folder / "invoices.csv"
    story.asks(["outhaul", *words], into=str(file))
    answer = run(["outhaul", *words], environment=pair.environment())
    file.write_text(answer.out, "utf-8", newline="")
    story.answers("\n".join([*answer.out.splitlines()[:3], "…", answer.err]))
    want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}")
    with file.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    count, amount = erp.rows("SELECT count(*), sum(amount) FROM invoices")[0]
    want(len(rows) == count, f"the ERP has {count} invoices, the file {len(rows)}")
    found = sum(Decimal(row["amount"]) for row in rows)
    want(found == amount, f"the ERP's invoices come to {amount}, the file's to {found}")
    names = erp.value("SELECT count(*) FROM invoices JOIN customers USING (customer_no) WHERE name LIKE 'Łuk%'")
    want(sum(row["name"].startswith("Łuk") for row in rows) == names, "names with Ł did not come as they are")
    story.proves(f"{count:,} rows, {amount} in all to the cent, names from Müller to Łukaszewicz as they are")


def file_dropped(pair: Pair, erp: Erp, story: Story) -> None:
    """A file for another system's eyes."""
    rows = pair.folder / "lines.ndjson"
    rows.write_text(
        '{"order_no": "4711", "sku": "A-1003", "qty": 2, "remark": "Anlieferung Tür 3, Müllerstraße"}\n'
        '{"order_no": "4711", "sku": "A-1017", "qty": 5, "remark": "à manipuler avec précaution; 12 €"}\n',
        "utf-8",
    )
    story.says("The freight partner takes orders as files, in the encoding of its age. The agent writes one, whole.")
    answer = pair.outhaul(story, "call", AGENT, "drop-order", "order_no=4711", "--rows", f"@{rows}")
    want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}")
    file = erp.edi / "ORD-4711.csv"
    want(file.exists(), f"{file} is not there")
    content = file.read_bytes()
    story.says(f"{file.name} in the EDI folder, decoded as Windows-1252:")
    story.answers(content.decode("cp1252"))
    truth = (
        "order_no;sku;qty;remark\r\n4711;A-1003;2;Anlieferung Tür 3, Müllerstraße\r\n"
        '4711;A-1017;5;"à manipuler avec précaution; 12 €"\r\n'
    )
    want(content == truth.encode("cp1252"), f"wants {truth!r} in cp1252, found {content!r}")
    digest = hashlib.sha256(content).hexdigest()
    want(digest in answer.out, f"the receipt does not have the file's SHA-256 {digest}")
    left = sorted(path.name for path in erp.edi.iterdir() if path != file and not path.name.endswith(".claim"))
    want(not left, f"half-written files lie in the folder: {left}")
    story.proves(f"{len(content)} bytes, each as it should be in cp1252; the receipt's SHA-256 is the file's")


def soap(pair: Pair, erp: Erp, story: Story) -> None:
    """A SOAP service asked, and one refusal."""
    story.says(
        "Finance is a SOAP service with a password of its own. One invoice is posted; one is for a closed period."
    )
    posted = pair.outhaul(story, *_invoice("RE4711", "2031-02-28"))
    want(posted.exit_code == 0, f"wants exit code 0, found {posted.exit_code}")
    closed = pair.outhaul(story, *_invoice("RE4712", "2019-12-31"))
    want(closed.exit_code == 1, f"wants exit code 1, found {closed.exit_code}")
    want("rejected" in closed.err and "PeriodClosed" in closed.err, f"wants PeriodClosed, found {closed.err!r}")
    held = erp.finance.posted()["invoices"]
    want([invoice["invoiceNo"] for invoice in held] == ["RE4711"], f"the service holds {held}")
    want("4900000001" in posted.out, f"wants document 4900000001, found {posted.out!r}")
    story.proves("the service holds RE4711 as document 4900000001, and not RE4712: its period is closed")


def unknown_operation(pair: Pair, erp: Erp, story: Story) -> None:
    """What the file does not name can't be run."""
    story.says("Somebody with a key tries what the operator's file does not name.")
    answer = pair.outhaul(story, "call", AGENT, "drop-all-tables")
    want(answer.exit_code == 2, f"wants exit code 2, found {answer.exit_code}")
    names = list(_operator_file(pair)["operations"])
    missing = [name for name in names if name not in answer.err]
    want(not missing, f"the answer does not name {missing}")
    status = _status(pair, "drop-all-tables", {})
    want(status == 404, f"wants HTTP status 404, found {status}")
    story.proves("HTTP 404, with the names that exist; nothing was sent to the agent")


def bad_parameter(pair: Pair, erp: Erp, story: Story) -> None:
    """What does not fit its type is refused."""
    story.says("A parameter that is not of its type, and one that is no parameter.")
    answer = pair.outhaul(story, "call", AGENT, "open-invoices", f"customer={CUSTOMER}", "since=yesterday")
    want(answer.exit_code == 2, f"wants exit code 2, found {answer.exit_code}")
    want("since" in answer.err, f"wants an answer that names since, found {answer.err!r}")
    for params in ({"customer": CUSTOMER, "since": "yesterday"}, {"customer": CUSTOMER, "or": "1=1"}):
        status = _status(pair, "open-invoices", params)
        want(status == 422, f"wants HTTP status 422 for {params}, found {status}")
    story.proves("HTTP 422 for both, saying which and why; the agent was not asked")


def agent_away(pair: Pair, erp: Erp, story: Story) -> None:
    """A command outlives the absence of its agent."""
    story.says("The agent is stopped: a power cut, an update. Meanwhile the shop enters an order.")
    pair.agent.stop()
    words = ["outhaul", *_order(CUSTOMER, _total(erp)), "--correlation-id", "while-away"]
    story.asks(words)
    before = erp.value("SELECT count(*) FROM orders")
    with begin(words, pair.environment()) as calling:
        try:
            waiting_for = _waiting_for(pair, "while-away", calling)
            want(waiting_for == "agent", f"wants a command that waits for the agent, found {waiting_for!r}")
            want(erp.value("SELECT count(*) FROM orders") == before, "an order appeared without an agent")
            pair.outhaul(story, "commands", "list", "--correlation-id", "while-away")
            story.says("The broker keeps it. The agent comes back.")
            pair.agent.start()
            pair.agent.wait_until(pair.online, "linked")
            out, err = calling.communicate(timeout=WAIT_S)
        finally:
            calling.kill()
    number = _one_order_more(erp, story, Answer(calling.returncode, out, err), before)
    story.proves(f"the waiting call ended with order {number}; the ERP has exactly one more")


def agent_killed(pair: Pair, erp: Erp, story: Story) -> None:
    """An order sent once is in the ERP once, whatever dies when."""
    story.says("The worst moment: the order is in the middle of its transaction, and the agent is killed (kill -9).")
    before = erp.value("SELECT count(*) FROM orders")
    words = ["outhaul", *_order(CUSTOMER, _total(erp)), "--correlation-id", "worst-moment"]
    story.asks(words)
    with erp.locked("orders"):
        calling = begin(words, pair.environment())
        try:
            deadline = time.monotonic() + WAIT_S
            while not erp.held_up():
                want(calling.poll() is None and time.monotonic() < deadline, "the order never reached the ERP")
                time.sleep(LOOK_S)
            pair.agent.kill()
        except BaseException:  # Ctrl-C too: the caller's program would outlive the demo
            calling.kill()
            raise
    story.says("Nobody knows how far it came. The agent comes back and asks its ledger in the ERP's own database.")
    with calling:
        try:
            pair.agent.start()
            pair.agent.wait_until(pair.online, "linked")
            out, err = calling.communicate(timeout=WAIT_S)
        finally:
            calling.kill()
    number = _one_order_more(erp, story, Answer(calling.returncode, out, err), before)
    with pair.caller() as client:
        (command,) = client.commands(correlation_id="worst-moment")
    pair.outhaul(story, "commands", "show", command.id, "--timeline")
    story.proves(f"order {number}, once; the waiting call heard of it after {command.attempts} attempts")


STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("what may be done", catalogue),
    ("no open port at the agent", no_open_port),
    ("a stored procedure called", procedure),
    ("the same order again", repeated),
    ("orders that the ERP refuses", refused),
    ("rows as a table", table),
    ("rows streamed to a file", stream),
    ("a file dropped", file_dropped),
    ("a SOAP service asked", soap),
    ("an operation nobody allowed", unknown_operation),
    ("a parameter that does not fit", bad_parameter),
    ("the agent goes and comes back", agent_away),
    ("the agent is killed in the middle", agent_killed),
    ("a change only the head office can order", trust.signed),
    ("what the broker can't read", trust.sealed),
    ("who did what, and that nothing is missing", trust.chained),
)


def _order(customer: str, total: Decimal, lines: str = LINES) -> list[str]:
    return ["call", AGENT, "create-sales-order", f"customer={customer}", f"total={total}", f"lines={lines}"]


def _invoice(number: str, due: str) -> list[str]:
    fields = (f"invoiceNo={number}", f"customer={CUSTOMER}", "amount=1190.00", "currency=EUR", f"dueDate={due}")
    return ["call", AGENT, "post-invoice", *fields]


def _total(erp: Erp) -> Decimal:
    prices = dict(erp.rows("SELECT sku, price FROM articles WHERE sku IN ('A-1003', 'A-1017')"))
    total: Decimal = 2 * prices["A-1003"] + 5 * prices["A-1017"]
    return total


def _order_no(answer: Answer) -> str:
    """Return the order's number from what the caller was shown."""
    want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}: {answer.err}")
    match = re.search(r"order_no\s+(\d+)", answer.out)
    want(match is not None, f"wants an order_no, found {answer.out!r}")
    assert match is not None  # noqa: S101 - tells mypy what want has just made sure of
    return match[1]


def _one_order_more(erp: Erp, story: Story, answer: Answer, before: int) -> str:
    """Return the number of the order that a waiting call ended with, which must be the only new one."""
    story.answers(answer.text)
    number = _order_no(answer)
    after = erp.value("SELECT count(*) FROM orders")
    want(after == before + 1, f"there were {before} orders, now there are {after}")
    want(erp.value("SELECT max(order_no) FROM orders") == number, f"{number} is not the newest order")
    return number


def _operator_file(pair: Pair) -> dict[str, dict[str, object]]:
    return tomllib.loads((pair.folder / "agent" / "agent.toml").read_text("utf-8"))


def _status(pair: Pair, operation: str, params: dict[str, str]) -> int:
    """Return the HTTP status that a submission gets."""
    with pair.caller() as client:
        try:
            client.call(AGENT, operation, params)
        except ProblemError as exc:
            return exc.status
    return 202


def _waiting_for(pair: Pair, correlation_id: str, calling: subprocess.Popen[str]) -> str | None:
    deadline = time.monotonic() + WAIT_S
    with pair.caller() as client:
        while time.monotonic() < deadline and calling.poll() is None:
            for command in client.commands(correlation_id=correlation_id):
                if command.waiting_for or command.final:
                    return command.waiting_for or json.dumps(command.state)
            time.sleep(LOOK_S)
    return None
