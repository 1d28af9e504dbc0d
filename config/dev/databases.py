"""
Throw-away PostgreSQL and MariaDB servers for the demo, the tests and the benchmarks.

They come from the operating system's packages, live in a folder of their own, listen on a free
port of the loopback interface, want a password, and are gone at the end. Nothing of the system's
own services is used or touched. Started by root they run as another account, because
PostgreSQL refuses root.

    with postgres() as server:
        server.execute_script("CREATE TABLE t (a int)")
        pyodbc.connect(server.odbc())
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import pyodbc

from config.dev import processes

if sys.platform != "win32":  # where only `free_port` is of use
    import pwd

HOST: Final = "127.0.0.1"
START_S: Final = 60.0  # seconds until a server must answer; 1 to 3 on a quiet machine
STOP_S: Final = 20.0  # seconds from the wish to stop to the kill
PORT_TRIES: Final = 5  # another program may take a free port before the server does


class ServerError(RuntimeError):
    """A server could not be set up, or a script failed; the text has the program's own words."""


class Server(ABC):
    """
    One server and its data.

    Attributes:
        port: TCP port on 127.0.0.1; stays the same over `stop` and `start`.
        user: name of the account that owns `database`.
        password: of that account; new for each server.
        database: the one that is there from the start.
        durable: whether it forces its writes to disk.
    """

    user: Final = "outhaul"
    database: Final = "erp"
    packages: str
    accounts: tuple[str, ...]
    _first_database: str  # there before `database` is

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.durable = durable
        self.password = secrets.token_urlsafe(18)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account(self.accounts) if os.geteuid() == 0 else None

    @abstractmethod
    def odbc(self, database: str | None = None, user: str | None = None, password: str | None = None) -> str:
        """Return an ODBC connection string."""

    @abstractmethod
    def execute_script(self, sql: str, database: str | None = None) -> None:
        """
        Run a script with the server's own command-line client, as the administrator.

        Raises:
            ServerError: a statement failed.
        """

    @abstractmethod
    def _initialise(self) -> None:
        """Make the data folder."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the program and its arguments, which run in the foreground."""

    @abstractmethod
    def _create_database(self) -> None:
        """Make `database`, once the server answers."""

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise ServerError(f"{self} is not running")
        return self._process.pid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {HOST}:{self.port} {'running' if self._process else 'stopped'}>"

    def setup(self) -> None:
        """Make the data and start; called once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._initialise()
        for attempt in range(1, PORT_TRIES + 1):
            self.port = free_port()
            try:
                self.start()
                break
            except ServerError as error:
                if attempt == PORT_TRIES or "in use" not in str(error):
                    raise
        self._create_database()

    def start(self) -> None:
        """
        Start, and return when it answers.

        Raises:
            ServerError: it ended, or did not answer in time.
        """
        log = self.folder / "server.log"
        with log.open("wb") as out:
            self._process = self._popen(self._command(), out)
        deadline = time.monotonic() + START_S
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                what = "ended at once" if ended else f"did not answer within {START_S:.0f} s"
                raise ServerError(f"{self._command()[0]} {what}:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals | None = None) -> None:
        """End the server; ``SIGKILL`` plays a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how if how is not None else self._stop_signal())
        processes.end(process, STOP_S)

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def _answers(self) -> bool:
        # An open port is not enough: PostgreSQL opens it before it takes sessions, and it may be another program's.
        try:
            pyodbc.connect(self.odbc(self._first_database), autocommit=True, timeout=5).close()
        except pyodbc.Error as exc:
            if exc.args[0] in ("IM002", "01000"):
                raise ServerError(f"no ODBC driver for {self}: install {self.packages}") from exc
            return False
        return True

    def _popen(self, command: Sequence[str], out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        account = self._account
        try:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                # Ctrl-C in a terminal reaches the demo only, which then stops its servers in order.
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as exc:
            raise ServerError(
                f"{self.folder}: {account.pw_name if account else 'this account'} can't reach it, or {command[0]} "
                f"is missing: {exc}. Give a folder below the temporary folder; packages: {self.packages}"
            ) from exc

    def _run(self, command: Sequence[str]) -> None:
        process = self._popen(command, subprocess.PIPE)
        output, _ = process.communicate()
        if process.returncode != 0:
            raise ServerError(f"{command[0]} failed:\n{output.decode(errors='replace')[-4000:]}")

    def _client(self, command: Sequence[str], sql: str, environment: dict[str, str]) -> None:
        done = subprocess.run(
            command, input=sql.encode(), capture_output=True, env={**os.environ, **environment}, check=False
        )
        if done.returncode != 0:
            raise ServerError(f"{command[0]} failed:\n{done.stderr.decode(errors='replace')[-4000:]}")


class Postgres(Server):
    """PostgreSQL; `user` is its superuser."""

    packages = "postgresql odbc-postgresql"
    accounts = ("postgres", "nobody")
    _first_database = "postgres"

    def odbc(self, database: str | None = None, user: str | None = None, password: str | None = None) -> str:
        return (
            f"Driver={{PostgreSQL Unicode}};Server={HOST};Port={self.port};Database={database or self.database};"
            f"Uid={user or self.user};Pwd={password or self.password}"
        )

    def execute_script(self, sql: str, database: str | None = None) -> None:
        command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p", str(self.port)]
        command += ["-U", self.user, "-d", database or self.database, "-f", "-"]
        self._client(command, sql, {"PGPASSWORD": self.password, "PGCLIENTENCODING": "UTF8"})

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        if self._account is not None:
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        command = [_program("initdb"), "-D", str(self.data), "-U", self.user, "--pwfile", str(secret)]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        self._run(command)
        secret.unlink()

    def _command(self) -> list[str]:
        command = [_program("postgres"), "-D", str(self.data), "-p", str(self.port)]
        options = {"listen_addresses": HOST, "unix_socket_directories": "", "max_connections": "200"}
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _create_database(self) -> None:
        self.execute_script(f"CREATE DATABASE {self.database}", "postgres")

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT if self.durable else signal.SIGQUIT


class MariaDB(Server):
    """MariaDB; `user` has all rights."""

    packages = "mariadb-server odbc-mariadb"
    accounts = ("mysql", "nobody")
    _first_database = "mysql"

    @property
    def _temporary(self) -> str:
        # A server that starts removes what it takes for leftovers: in a folder of all, the tables of its neighbours.
        return f"--tmpdir={self.folder}"

    def odbc(self, database: str | None = None, user: str | None = None, password: str | None = None) -> str:
        return (
            f"Driver={{MariaDB Unicode}};Server={HOST};Port={self.port};Database={database or self.database};"
            f"Uid={user or self.user};Pwd={password or self.password}"
        )

    def execute_script(self, sql: str, database: str | None = None) -> None:
        command = ["mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-h", HOST, "-P", str(self.port)]
        command += ["-u", self.user, database or self.database]
        self._client(command, sql, {"MYSQL_PWD": self.password})

    def _initialise(self) -> None:
        command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", "--skip-test-db"]
        command += [self._temporary]
        command += ["--auth-root-authentication-method=normal", "--innodb-flush-method=O_DIRECT_NO_FSYNC"]
        self._run(command)
        first = self.folder / "first.sql"
        first.write_text(
            f"CREATE USER '{self.user}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{self.user}'@'%' WITH GRANT OPTION;\n"
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;\n"
            "ALTER USER 'root'@'localhost' ACCOUNT LOCK;\n"
        )
        first.chmod(0o600)
        if self._account is not None:
            os.chown(first, self._account.pw_uid, self._account.pw_gid)

    def _command(self) -> list[str]:
        command = [_program("mariadbd"), "--no-defaults", f"--datadir={self.data}", f"--port={self.port}"]
        # A relative socket lies in the data folder: an absolute path may be too long for one.
        command += [f"--bind-address={HOST}", "--socket=server.sock", f"--pid-file={self.folder / 'server.pid'}"]
        command += ["--character-set-server=utf8mb4", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=64M"]
        command += ["--innodb-log-file-size=32M", "--skip-log-bin", "--lower-case-table-names=0", self._temporary]
        if not self.durable:
            command += ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--sync-frm=0"]
            command += ["--innodb-flush-method=nosync"]
        if (self.folder / "first.sql").exists():
            command += [f"--init-file={self.folder / 'first.sql'}"]
        return command

    def _create_database(self) -> None:
        (self.folder / "first.sql").unlink()

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM if self.durable else signal.SIGKILL


@contextlib.contextmanager
def postgres(folder: Path | None = None, *, durable: bool = False) -> Iterator[Postgres]:
    """
    Run a PostgreSQL server while the block runs.

    Args:
        folder: where its data lie, made if missing, empty at first; default: a temporary one, removed at the end.
            Started by root, the account `postgres` must be able to reach it.
        durable: force writes to disk; throw-away servers are faster without.
    """
    with _folder(folder) as place:
        server = Postgres(place, durable=durable)
        try:
            server.setup()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def mariadb(folder: Path | None = None, *, durable: bool = False) -> Iterator[MariaDB]:
    """Run a MariaDB server while the block runs; as `postgres`, with the account `mysql`."""
    with _folder(folder) as place:
        server = MariaDB(place, durable=durable)
        try:
            server.setup()
            yield server
        finally:
            server.stop()


def free_port() -> int:
    """
    Return a port of the loopback interface that nobody listens on just now.

    Below those that the system gives to who dials, which might take it before its server does.
    """
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    place = Path(tempfile.mkdtemp(prefix="outhaul-db-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _account(names: Sequence[str]) -> pwd.struct_passwd:
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError(f"started by root, a database server runs as {' or '.join(names)}, but there is no such account")


def _program(name: str) -> str:
    """Return the path of a server program; Debian keeps PostgreSQL's out of PATH."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: _version(path), reverse=True)
    if versions:
        return str(versions[0])
    if found is None:
        raise ServerError(f"{name} is not installed: apt-get install postgresql mariadb-server")
    return found


def _version(path: Path) -> float:
    try:
        return float(path.parent.parent.name)
    except ValueError:
        return 0.0
