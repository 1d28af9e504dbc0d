"""
Buildbot's worker: an agent in Python that dials out, is told what to do, and runs it.

Its master runs beside it. Both are installed from PyPI when they are first wanted, each by itself, so that what the
worker takes on the disk is its own.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.peers import installed
from bench.programs import program, until_said
from config.dev.databases import HOST, free_port

WORKER: Final = "buildbot-worker==4.3.0"
MASTER: Final = "buildbot==4.3.0"
READY: Final = "worker is ready"

_LOG: Final = "twistd.log"
_CONFIGURATION: Final = """
from buildbot.plugins import schedulers, util, worker

BuildmasterConfig = {{
    "workers": [worker.Worker("small", "secret")],
    "protocols": {{"pb": {{"port": "tcp:{port}:interface={host}"}}}},
    "builders": [util.BuilderConfig(name="one", workername="small", factory=util.BuildFactory())],
    "schedulers": [schedulers.ForceScheduler(name="by-hand", builderNames=["one"])],
    "buildbotNetUsageData": None,
}}
"""


@contextlib.contextmanager
def master(folder: Path) -> Iterator[tuple[Path, list[str], Path]]:
    """
    Run a master while the block runs.

    Yields:
        Where the worker is installed, the words that start it, and its log.

    Raises:
        PeerMissing: one of them can't be installed.
    """
    worker, master = installed(WORKER), installed(MASTER)
    port, ours, theirs = free_port(), folder / "worker", folder / "master"
    start = [str(worker / "bin" / "buildbot-worker")]
    rule = [str(master / "bin" / "buildbot")]
    _do([*start, "create-worker", "-q", str(ours), f"{HOST}:{port}", "small", "secret"])
    _do([*rule, "create-master", "-q", str(theirs)])
    (theirs / "master.cfg").write_text(_CONFIGURATION.format(port=port, host=HOST), "utf-8")
    with program([*rule, "start", "--nodaemon", str(theirs)], folder / "master.log") as process:
        until_said("BuildMaster is running", process, theirs / _LOG)
        yield worker, [*start, "start", "--nodaemon", str(ours)], ours / _LOG


def _do(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)
