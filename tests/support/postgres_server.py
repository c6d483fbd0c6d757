"""PostgreSQL with pgvector, from the package pgserver, on a free loopback port and a Unix socket.

PGVECTOR_BIN names the folder of another PostgreSQL's programs to test with.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

from tests.support.serving import environment, free_port

USER = "postgres"
# Whoever is not USER needs a password over TCP.
ACCESS = f"""
local all all trust
host all {USER} 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


def programs() -> Path | None:
    """The folder of the programs; None if there is none on this machine."""
    if folder := os.environ.get("PGVECTOR_BIN"):
        return Path(folder)
    # Importing the package would start to look for servers of its own.
    spec = find_spec("pgserver")
    return Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None


@dataclass
class PostgresServer:
    """A server that can be killed and started again. Its folder is its own and is removed with it."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def owner(self) -> str | None:
        """PostgreSQL does not run as root: the user to run it as, or None for this one."""
        return None if os.geteuid() else "nobody"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        command = [str(_program("postgres")), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        # What survives a crash of the machine is not tested, and a process that is killed needs no fsync.
        command += ["-c", "max_connections=60", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            # Signals of a terminal are not for it.
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment({"LC_ALL": "C"}),
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.owner,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.libpq_url()).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """End every process of it with SIGKILL."""
        assert self.process is not None
        # Each session is in a group of its own.
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def processes(self) -> list[int]:
        """The server and its sessions."""
        assert self.process is not None
        return [self.process.pid, *_children(self.process.pid)]

    def stop(self) -> None:
        """End it at once, sessions included."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(60)

    def run(self, statement: str, database: str = USER) -> list[tuple[object, ...]]:
        """Run a statement outside of any transaction; returns its rows."""
        with psycopg.connect(self.libpq_url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Make an empty database; returns its name."""
        name = f"t{secrets.token_hex(8)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def libpq_url(self, database: str = USER) -> str:
        """A URL for psycopg."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def index_url(self, database: str = USER, table: str = "photos") -> str:
        """A URL for INDEX_URL."""
        return f"{self.libpq_url(database)}?table={table}"


@contextmanager
def running(**options: str) -> Iterator[PostgresServer]:
    """A new server. Options go into postgresql.conf."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = PostgresServer(folder)
    if server.owner:
        shutil.chown(folder, server.owner)
    try:
        initdb = [str(_program("initdb")), "-D", str(folder / "data"), "-U", USER, "--auth=trust"]
        made = subprocess.run(
            [*initdb, "--encoding=utf8", "--locale=C", "--no-sync"],
            cwd=folder,
            env=environment({"LC_ALL": "C"}),
            capture_output=True,
            text=True,
            check=False,
            user=server.owner,
        )
        assert made.returncode == 0, made.stderr
        (folder / "data" / "pg_hba.conf").write_text(ACCESS)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in options.items())
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> Path:
    folder = programs()
    assert folder is not None
    return folder / name


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []
