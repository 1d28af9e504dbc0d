"""
SOAP calls, our driver beside zeep; and the elements of a large answer as rows, through agent and broker.

Both clients run in this process, in turns, with the same WSDL and a connection that is kept (ours has one of its own
for each call with an effect). What they return differs as they do: ours are the JSON values that leave the agent,
zeep's are Python objects. The goals are of the clients, so they are held with a service that costs next to nothing
(``still``); the same at node's service is told beside it, where most of the time is the service's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zeep

from agent.connectors.base import Call, DriverSetup, Outputs
from agent.connectors.soap.driver import SoapDriver
from agent.settings import CallOperation, Effect, SoapConnection
from bench import passages
from bench.figures import Figure, Goal, Lab, alternated
from bench.still import still_service
from config.dev import processes
from config.dev.demo.pair import AGENT, Pair, pair
from config.dev.finance import FOLDER, finance_service

WSDL: Final = FOLDER / "finance.wsdl"
BINDING: Final = "{urn:example:finance}FinanceBinding"
FEW, MANY = 5, 1_000  # orders in an answer
WAIT_S: Final = 600.0
GROWTH_MIB: Final = 16.0

_Client: Any = zeep.Client  # zeep is typed in part

OPERATOR_FILE: Final = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"

[connections.finance]
type = "soap"
wsdl = {wsdl}
endpoint = "{url}"

[operations.orders]
connection = "finance"
call = "GetOrders"
rows = "order"
effect = "read"
timeout = "10min"
params.customer = {{ default = "C1" }}
params.count = {{ type = "integer" }}
"""


def measure(lab: Lab) -> list[Figure]:
    """Return calls a second beside zeep, and rows through both programs with what memory they take."""
    rounds, calls = (1, 20) if lab.short else (3, 400)
    large = max(2, calls // 20)
    with still_service() as still, finance_service() as finance:
        figures = [
            _beside_zeep("SOAP, small calls, static replies", still, FEW, rounds, calls, Goal("at least", 2)),
            _beside_zeep("SOAP, small calls, node's service", finance.url, FEW, rounds, calls, None),
            _beside_zeep(
                "SOAP, small calls with an effect, static replies", still, FEW, rounds, calls, None, "at-most-once"
            ),
            _beside_zeep(
                "SOAP, answers of 1,000 elements, static replies", still, MANY, rounds, large, Goal("at least", 5)
            ),
            _beside_zeep("SOAP, answers of 1,000 elements, node's service", finance.url, MANY, rounds, large, None),
        ]
        counts = (1_000, 20_000) if lab.short else (10_000, 1_000_000)
        return figures + _rows(lab.folder / "soap", still, *counts)


def _beside_zeep(
    name: str, url: str, count: int, rounds: int, calls: int, goal: Goal | None, effect: Effect = "read"
) -> Figure:
    driver = _driver(url, effect)
    client = _Client(str(WSDL))
    service = client.create_service(BINDING, url)
    call = Call("cmd", "orders", json.dumps({"customer": "C1", "count": count}).encode(), WAIT_S)

    def ours() -> int:
        (answer,) = driver.run(call)
        assert isinstance(answer, Outputs)
        return len(answer.values["order"])

    def peer() -> int:
        return len(service.GetOrders(customer="C1", count=count))

    try:
        found = alternated(rounds, lambda: _rate(ours, count, calls), lambda: _rate(peer, count, calls))
    finally:
        driver.close()
        client.transport.session.close()
    return Figure(name, "calls/s", *found, f"zeep {zeep.__version__}", goal)


def _driver(url: str, effect: Effect) -> SoapDriver:
    operation = CallOperation(connection="finance", call="GetOrders", effect=effect, timeout=WAIT_S)
    connection = SoapConnection(type="soap", wsdl=str(WSDL), endpoint=url)
    driver = SoapDriver(DriverSetup("finance", connection, {"orders": operation}))
    driver.open()
    return driver


def _rate(ask: Callable[[], int], wanted: int, calls: int) -> float:
    """Return calls a second; a figure of half the orders would be a lie."""
    began = time.perf_counter()
    for _ in range(calls):
        if (found := ask()) != wanted:
            raise RuntimeError(f"{wanted} orders were asked for, {found} came")
    return calls / (time.perf_counter() - began)


def _rows(folder: Path, url: str, few: int, many: int) -> list[Figure]:
    """Return rows of a large answer through agent and broker, and how much more memory they take than a small one."""
    folder.mkdir()
    file = OPERATOR_FILE.format(agent=AGENT, wsdl=json.dumps(str(WSDL)), url=url)
    with pair(folder, file, {}, print, usual_ports=False) as running:
        passages.through_outhaul(running, "orders", few)
        before = _peak_mib(running)
        passage = passages.through_outhaul(running, "orders", many)
        figures = [Figure("rows of a SOAP answer, to HTTP", "rows/s", [many / passage.all_s])]
        if sys.platform == "linux":
            grown = max(0.0, _peak_mib(running) - before)
            name = f"memory of agent, driver and broker, {many:,} SOAP rows beside {few:,}"
            figures.append(Figure(name, "MiB more", [grown], goal=Goal("at most", GROWTH_MIB)))
    return figures


def _peak_mib(running: Pair) -> float:
    """Return the most memory that agent, its drivers and broker have had so far, each by itself."""
    tops = [program.pid for program in (running.agent, running.broker)]
    family = [pid for top in tops for pid in (top, *processes.descendants(top))]
    return sum(_peak_kib(pid) for pid in family) / 1024


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
