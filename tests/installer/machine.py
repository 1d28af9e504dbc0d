"""A machine of its own: a bare Debian that runs, with systemd, and no network but loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from config.dev.demo.programs import Answer, Program, run
from tests.installer import bare_root
from tests.waiting import until_so
from tests.whole.site import WAIT_S, Broker

BOOT: Final = Path(__file__).with_name("boot.sh")
BOOT_S: Final = 120.0  # seconds; two on a quiet machine
COMMAND_S: Final = 120  # that one command may take there; some on a quiet machine
_CGROUPS: Final = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup"))
NOT_ALLOWED: Final = 4  # the exit code of a caller who came through, without a key
_OWN: Final = ("-m", "-p", "-u", "-i", "-n", "-C")  # namespaces: files, processes, name, queues, network, cgroups
_PLAIN: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class Machine:
    """
    The machine.

    Attributes:
        root: its files, as seen from here.
        pid: of its first process, as seen from here.
    """

    def __init__(self, root: Path, pid: int) -> None:
        self.root = root
        self.pid = pid

    def do(self, *words: str, stdin: str = "", fails: bool = False) -> Answer:
        """Run a command as its root, which is to succeed, or to fail."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=_PLAIN,
            check=False,
            timeout=COMMAND_S,
        )
        answer = Answer(done.returncode, done.stdout, done.stderr)
        assert (answer.exit_code != 0) is fails, f"{' '.join(words)}: {answer.exit_code}\n{answer.text}"
        return answer

    def is_active(self, unit: str) -> bool:
        words = self._systemctl("is-active", "--quiet", unit)
        return subprocess.run(words, check=False, env=_PLAIN, timeout=COMMAND_S).returncode == 0

    def shown(self, unit: str, fact: str) -> str:
        """Return what systemd says of a unit."""
        return self.do("systemctl", "show", "--value", f"--property={fact}", unit).out.strip()

    def beside(self, *words: str) -> list[str]:
        """Return the words of a program of ours in its network, but with the files of this machine."""
        program = str(Path(sys.executable).with_name(words[0]))
        return ["/usr/bin/nsenter", f"--net=/proc/{self.pid}/ns/net", program, *words[1:]]

    def running(self) -> bool:
        """Whether it has come up, as far as it will."""
        words = self._systemctl("is-system-running")
        said = subprocess.run(words, capture_output=True, text=True, env=_PLAIN, check=False, timeout=COMMAND_S).stdout
        return said.strip() in ("running", "degraded")

    def _systemctl(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", "systemctl", *words]


class BrokerBeside(Broker):
    """A broker in the machine's network."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        super().__init__(folder)
        self._machine = machine
        words = machine.beside("outhaul-broker", "serve", "--config", str(self.file))
        self.program = Program(words, folder / "broker.log")

    def ready(self) -> bool:
        return self.call("agents").exit_code == NOT_ALLOWED

    def call(self, *words: str, key: str = "none") -> Answer:
        """Run ``outhaul`` there."""
        environment = {"OUTHAUL_URL": self.url, "OUTHAUL_KEY": key}
        return run(self._machine.beside("outhaul", *words), environment=environment, timeout_s=WAIT_S)


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot a machine whose files are in ``folder``; all of it goes at the end."""
    root = folder / "root"
    bare_root.unpack(root)
    with _cgroup(folder.name) as cgroup, (folder / "boot.log").open("wb") as log:
        enter = f'echo $$ >"{cgroup}/cgroup.procs" && exec unshare {" ".join(_OWN)} --fork --kill-child "$@"'
        boot = subprocess.Popen(
            ["/bin/sh", "-c", enter, "sh", "/bin/bash", str(BOOT), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            machine = Machine(root, 0)

            def came_up() -> bool:
                assert boot.poll() is None, (folder / "boot.log").read_text(errors="replace")
                machine.pid = _child(boot.pid)
                return machine.pid != 0 and machine.running()

            until_so(came_up, BOOT_S)
            yield machine
        finally:
            first = _child(boot.pid)
            boot.send_signal(signal.SIGKILL)
            if first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)  # and all that it has started
            boot.wait()
    shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    """A branch of its own: two machines must not take each other's processes for theirs."""
    above = next(path for path in _CGROUPS if path.is_dir())
    made = above / f"outhaul-{name}-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        # Its processes have been killed; the last of them may take a moment to go.
        until_so(lambda: _removed(made))


def _removed(cgroup: Path) -> bool:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not cgroup.exists()


def _child(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return 0
