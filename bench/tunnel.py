"""What people use instead: OpenSSH with a reverse tunnel to the database, and pyodbc at its far end."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import programs
from bench.distance import HOST, Distance
from bench.peers import PeerMissing, unpacked
from config.dev.databases import free_port

PLAIN_ACCOUNT: Final = "nobody"  # for who is root: a server of root's wants accounts that are not there

_SERVER: Final = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM {pam}
StrictModes no
PasswordAuthentication no
"""


def server_program(*, fetch: bool) -> Path | None:
    """
    Return OpenSSH's server, of the system or unpacked from its package; ``None`` where that is not to be fetched.

    Raises:
        PeerMissing: it can't be fetched.
    """
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return Path(found)
    place = unpacked("openssh-server", "libwrap0") if fetch else None
    return place / "usr" / "sbin" / "sshd" if place is not None else None


def version() -> str:
    """Return OpenSSH's version."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    return said.split(",")[0].split(" ")[0].replace("_", " ")


@contextlib.contextmanager
def tunnel(program: Path, database: int) -> Iterator[tuple[Distance, int]]:
    """
    Run both ends while the block runs, each with a key of its own.

    Yields:
        The line between them, and the port where the database is at the far end.

    Raises:
        PeerMissing: it does not start here.
    """
    root = os.geteuid() == 0
    account = PLAIN_ACCOUNT if root else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="outhaul-ssh-"))
    folder.chmod(0o755)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    port, far = free_port(), free_port()
    (folder / "sshd.conf").write_text(_SERVER.format(port=port, folder=folder, pam="yes" if root else "no"))
    if root:
        entry = pwd.getpwnam(account)
        os.chown(folder / "host", entry.pw_uid, entry.pw_gid)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = folder / "server.log"
        words = [str(program), "-D", "-e", "-f", str(folder / "sshd.conf")]
        libraries = os.pathsep.join(map(str, program.parents[1].glob("lib/*-linux-gnu*")))
        # An account without the rights of root: this server is of the benchmark alone.
        far_end = programs.program(words, log, None, account if root else None, {"LD_LIBRARY_PATH": libraries})
        _until_listening(port, stack.enter_context(far_end), log)
        line = stack.enter_context(Distance(port))
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes")
        words = ["ssh", "-N", "-F", "none", "-i", str(folder / "user"), "-p", str(line.port), "-o", "BatchMode=yes"]
        words += [word for option in options for word in ("-o", option)]
        words += ["-R", f"{HOST}:{far}:{HOST}:{database}", f"{account}@{HOST}"]
        log = folder / "client.log"
        _until_listening(far, stack.enter_context(programs.program(words, log)), log)
        yield line, far


def _until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    try:
        programs.until_listening(port, process, log)
    except programs.NotRunning as exc:
        raise PeerMissing(f"OpenSSH does not start here: {str(exc).splitlines()[-1]}") from exc
