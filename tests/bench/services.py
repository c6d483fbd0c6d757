"""The services that are measured: how to start them, send requests, read CPU and memory, stop them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from tests.support.serving import ROOT, environment, free_port

START_SECONDS = 120
REPLY_SECONDS = 120


@dataclass(frozen=True)
class Payload:
    """One POST request."""

    path: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Service:
    """A command that serves HTTP on a loopback port, which replaces `{port}` in the command."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    # Working directory of the command.
    folder: Path = ROOT
    # The interpreter that runs the command, which is a module and its arguments.
    python: str = sys.executable
    # The CPUs that it may use; all if empty.
    cpus: tuple[int, ...] = ()

    def pinned(self) -> list[str]:
        """The command before the command that leaves it these CPUs."""
        return ["taskset", "-c", ",".join(map(str, self.cpus))] if self.cpus else []


def function(
    name: str, target: str, source: str = "main.py", folder: Path = ROOT, **settings: str
) -> Service:
    """A functions-framework function."""
    module = ("functions_framework", "--source", source, "--target", target)
    return Service(name, (*module, "--host", "127.0.0.1", "--port", "{port}"), settings, folder)


def staged(name: str, target: str, model: Path, build: Path, **settings: str) -> Service:
    """A function as it is deployed: staged in a folder below `build`, with its own tower only."""
    stage = [str(ROOT / "deploy.sh"), f"--model={model}", f"--build-dir={build}", "stage", target]
    subprocess.run(stage, stdout=sys.stderr, check=True)
    (folder,) = (build / target / "model_cache").iterdir()
    return function(name, target, folder=build / target, MODEL=folder.name, **settings)


def fastapi(checkpoint: Path) -> Service:
    """The service to compare with."""
    module = ("uvicorn", "tests.bench.fastapi_service:app", "--log-level", "warning")
    return Service(
        "FastAPI + open_clip",
        (*module, "--host", "127.0.0.1", "--port", "{port}"),
        {"CHECKPOINT": str(checkpoint)},
    )


@dataclass(frozen=True)
class Running:
    """A started service, which may not be ready yet. `started` is a time of time.perf_counter()."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started: float

    def connect(self) -> HTTPConnection:
        """Open a connection to the service."""
        return HTTPConnection("127.0.0.1", self.port, timeout=REPLY_SECONDS)

    def wait_for_reply(self, payload: Payload) -> float:
        """Repeat `payload` until the status is 200. Returns the seconds since the start of the process."""
        while time.perf_counter() < self.started + START_SECONDS and self.process.poll() is None:
            connection = self.connect()
            try:
                if post(connection, payload).status == 200:
                    return time.perf_counter() - self.started
            except (OSError, HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.002)
        raise RuntimeError(f"{self.name} does not answer:\n{self.log.read_text()[-4000:]}")

    def wait_until_listening(self) -> None:
        """Wait until the service accepts connections."""
        while time.perf_counter() < self.started + START_SECONDS and self.process.poll() is None:
            connection = self.connect()
            try:
                connection.connect()
            except OSError:
                time.sleep(0.01)
            else:
                return
            finally:
                connection.close()
        raise RuntimeError(f"{self.name} does not listen:\n{self.log.read_text()[-4000:]}")

    def cpu_seconds(self) -> float:
        """CPU time in seconds, user and system, of the process and its descendants, ended ones included."""
        # proc_pid_stat(5): fields 14 to 17, in clock ticks. The name in field 2 may contain spaces.
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def worker_rss(self) -> float:
        """Resident memory of the largest process, in MB."""
        return max(kilobytes(Path(f"/proc/{pid}/status"), "VmRSS") for pid in self.pids()) / 1000

    def tree_anonymous(self) -> float:
        """Anonymous memory of all processes, in MiB: what has no file behind it and cannot be dropped.

        What a process shares with the one that it was forked from counts once, as it does for a container.
        """
        rollups = (Path(f"/proc/{pid}/smaps_rollup") for pid in self.pids())
        return sum(kilobytes(rollup, "Pss_Anon") for rollup in rollups) / 1048.576

    def tree_pss(self) -> float:
        """Resident memory of all processes, in MB, with shared pages counted once."""
        return sum(kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in self.pids()) / 1000

    def read_megabytes(self) -> float:
        """MB that the system counts as read from a disk by the processes, ended ones left out."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
                total += int(lines["read_bytes"])
        return total / 1e6

    def mapped_files(self) -> set[Path]:
        """The files that the processes have mapped into their memory."""
        lines = [line for pid in self.pids() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        paths = {Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line}
        return {path for path in paths if path.is_file()}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the processes during the `with` block, so that what they have done can be counted."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        pids = [self.process.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                # The thread may have ended in the meantime.
                with suppress(OSError):
                    pids += map(int, children.read_text().split())
        return pids


def kilobytes(path: Path, name: str) -> float:
    """The value `name` in a file of /proc, in units of 1000 bytes."""
    # The unit that /proc calls kB is 1024 bytes.
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1.024
    raise ValueError(f"{path} has no {name}")


def post(connection: HTTPConnection, payload: Payload) -> HTTPResponse:
    """Send `payload` and read the whole reply."""
    connection.request("POST", payload.path, payload.body, {"Content-Type": payload.content_type})
    response = connection.getresponse()
    response.read()
    return response


@contextmanager
def running(service: Service, logs: Path) -> Iterator[Running]:
    """Start `service`; stop it and wait for its end after the `with` block."""
    port = free_port()
    command = [*service.pinned(), service.python, "-m", *(part.format(port=port) for part in service.command)]
    log = logs / f"{service.name}.log"
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=service.folder,
            env=environment(service.settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Running(service.name, process, port, log, started)
    try:
        yield server
    finally:
        _stop(server)


def _stop(server: Running) -> None:
    server.process.terminate()
    try:
        server.process.wait(15)
    except subprocess.TimeoutExpired:
        # Children first: after the end of their parent, the walk over descendants no longer reaches them.
        for pid in reversed(server.pids()):
            os.kill(pid, 9)
        server.process.wait()
