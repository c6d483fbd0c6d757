"""Load from many clients at once, by wrk: a compiled generator that takes little of the CPU it shares."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median_low

from tests.bench.services import REPLY_SECONDS, Payload, Running

SCRIPT = Path(__file__).with_name("load.lua")
# A round takes longer than asked for until each client would get so many replies, but no longer than this.
REPLIES = 3
MOST_SECONDS = 30


class NoReplyError(RuntimeError):
    """Not one reply came while the load lasted."""


@dataclass(frozen=True)
class Load:
    """What some clients got that sent the same request again and again, each as soon as it was answered."""

    clients: int
    # Answered requests a second, of any status.
    rate: float
    # Milliseconds until half of the replies, and until 99 of 100.
    p50: float
    p99: float
    # CPU milliseconds, user and system, of the server's processes per answered request.
    cpu_ms: float
    # How many replies had which status.
    codes: Mapping[int, int]
    # Connections that failed and requests that got no reply in time.
    broken: int
    # CPUs that wrk took.
    generator: float

    @property
    def refused(self) -> str:
        """The statuses other than 200 with their counts, and broken connections; empty if there are none."""
        parts = [f"{code}: {count:,}" for code, count in sorted(self.codes.items()) if code != 200]
        return ", ".join([*parts, *([f"broken: {self.broken:,}"] if self.broken else [])])


def require_wrk() -> None:
    """Exit with a sentence that names the package if wrk is not installed."""
    if not shutil.which("wrk"):
        sys.exit("The load generator wrk is missing; on Debian and Ubuntu: apt-get install wrk")


def drive(
    server: Running, payload: Payload, clients: int, seconds: int, rounds: int, cpus: tuple[int, ...] = ()
) -> Load:
    """Load `server` in `rounds` of `seconds`; the round of the median rate.

    Args:
        server: has answered `payload` before.
        payload: what every client sends.
        clients: connections, each kept alive.
        seconds: of a round, or more where a service is slow; a shorter one, which is not counted, precedes.
        rounds: how often.
        cpus: where wrk runs; anywhere if empty.
    """
    seconds = _enough(server, payload, clients, seconds, cpus)
    results = [_run(server, payload, clients, seconds, cpus) for _ in range(rounds)]
    middle = median_low(result.rate for result in results)
    return next(result for result in results if result.rate == middle)


def _enough(server: Running, payload: Payload, clients: int, seconds: int, cpus: tuple[int, ...]) -> int:
    """Warm `server` up. Returns seconds in which each of `clients` gets a few replies: `seconds` or more."""
    try:
        warm = _run(server, payload, clients, max(2, seconds // 3), cpus)
    except NoReplyError:
        return MOST_SECONDS
    return max(seconds, min(MOST_SECONDS, ceil(REPLIES * clients / warm.rate)))


def _run(server: Running, payload: Payload, clients: int, seconds: int, cpus: tuple[int, ...]) -> Load:
    settle(server)
    url = f"http://127.0.0.1:{server.port}{payload.path}"
    with tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        pinned = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
        options = ["-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={REPLY_SECONDS}s", "-s", str(SCRIPT)]
        before, wrk_before = server.cpu_seconds(), _children_cpu()
        ended = subprocess.run(
            [*pinned, "wrk", *options, url, "--", body.name, payload.content_type],
            capture_output=True,
            text=True,
            check=False,
        )
        cpu, wrk_cpu = server.cpu_seconds() - before, _children_cpu() - wrk_before
    if ended.returncode:
        raise RuntimeError(f"wrk failed: {ended.stderr.strip() or ended.stdout.strip()}")
    figures = json.loads(ended.stdout.strip().splitlines()[-1])
    answered = figures["requests"]
    if not answered:
        raise NoReplyError(f"{server.name} answered nothing in {seconds} s")
    return Load(
        clients=clients,
        rate=answered / figures["seconds"],
        p50=figures["p50"],
        p99=figures["p99"],
        cpu_ms=cpu / answered * 1000,
        codes={int(code): count for code, count in figures["codes"].items()},
        broken=figures["broken"],
        generator=wrk_cpu / figures["seconds"],
    )


def settle(server: Running, limit: float = 30) -> None:
    """Wait until `server` has done what earlier clients asked for: it uses hardly any CPU for 0.3 s."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = server.cpu_seconds()
        time.sleep(0.3)
        if server.cpu_seconds() - before < 0.02:
            return


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
