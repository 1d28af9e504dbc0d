"""Rows over a long line, beside an SSH tunnel of the same length with pyodbc at its far end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import tunnel
from bench.disk import settle
from bench.distance import HOST, Distance
from bench.figures import Figure, Goal, Lab, alternated
from bench.passages import SQL, Passage, bare, through_outhaul
from bench.peers import PeerMissing
from config.dev.demo.pair import TENANT
from config.dev.demo.programs import Program, must

ROUND_TRIPS_MS: Final = (0, 20, 80)
AHEAD: Final = 1.1  # times the rate of the tunnel
AGENT: Final = "afar"

_OPERATOR_FILE: Final = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"
link.urls = ["wss://{host}:{line}"]

[connections.erp]
type = "odbc"
connection_string = "Driver={{PostgreSQL Unicode}};Server={host};Port={port};Database=erp;Uid={user};Pwd={{secret:erp}}"

[operations.lines]
connection = "erp"
sql = "{sql}"
effect = "read"
timeout = "10min"
params.count = {{ type = "integer", min = 0 }}
"""


def measure(lab: Lab) -> list[Figure]:
    """Return the figures for each distance; none where no SSH server is to be had."""
    try:
        program = tunnel.server_program(fetch=not lab.short)
        if program is not None:
            return _beside(lab, program)
        print("no SSH server: its tunnel is not measured")
    except PeerMissing as exc:
        lab.missing.append(str(exc))
    return []


def _beside(lab: Lab, program: Path) -> list[Figure]:
    # Many short rounds: what else the machine does for a second or two meets some of either, and not their medians.
    rounds, count = (1, 1_000) if lab.short else (7, 100_000)
    figures = []
    with (
        _agent(lab) as line,
        tunnel.tunnel(program, lab.database.port) as (ssh_line, far),
    ):
        for round_trip_ms in ROUND_TRIPS_MS:
            line.round_trip_s = ssh_line.round_trip_s = round_trip_ms / 1000
            ours, peer = alternated(
                rounds,
                lambda: _through_outhaul(lab, count),
                lambda: _through_tunnel(lab, far, count),
            )
            figures.append(
                Figure(
                    f"{count:,} rows over {round_trip_ms} ms of round trip",
                    "rows/s",
                    [count / one.all_s for one in ours],
                    [count / one.all_s for one in peer],
                    f"{tunnel.version()}, pyodbc",
                    Goal("at least", AHEAD),
                )
            )
    return figures


def _through_outhaul(lab: Lab, count: int) -> Passage:
    settle()  # a result is synced before it ends
    return through_outhaul(lab.running, "lines", count, AGENT)


def _through_tunnel(lab: Lab, port: int, count: int) -> Passage:
    # As the driver comes: with a cursor on the server it would wait for the line after every few rows.
    return bare(f"{lab.database.odbc()};Port={port}", count, "")


@contextlib.contextmanager
def _agent(lab: Lab) -> Iterator[Distance]:
    """Run an agent of the benchmark's broker at the end of a line, which is yielded."""
    pair, folder = lab.running, lab.folder / AGENT
    broker = ("--config", str(pair.folder / "broker" / "broker.toml"))
    token = must(["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", AGENT, *broker, "--json"])
    folder.mkdir()
    file = folder / "agent.toml"
    config = ("--config", str(file))
    with Distance(pair.link_port) as line:
        told = {"agent": AGENT, "host": HOST, "line": line.port, "port": lab.database.port, "user": lab.database.user}
        file.write_text(_OPERATOR_FILE.format(**told, sql=SQL.format(count=":count")), "utf-8")
        must(["outhaul-agent", "secret", "set", "erp", *config], stdin=lab.database.password)
        must(["outhaul-agent", "enroll", "--token", "-", *config], stdin=json.loads(token)["token"] + "\n")
        agent = Program(["outhaul-agent", "run", *config], folder / "agent.log")
        agent.start()
        try:
            with pair.caller() as client:
                agent.wait_until(
                    lambda: any(one.name == AGENT and one.state == "online" for one in client.agents()), "linked"
                )
            yield line
        finally:
            agent.stop()
