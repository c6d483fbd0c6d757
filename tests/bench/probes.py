"""The start of a function as the platform sees it: when its first request is answered, by the startup probe.

Cloud Run starts an instance because a request has come, and passes the request on once the startup probe has
succeeded. Both kinds of probe are played here against the functions as they are deployed:

- TCP, the default: it succeeds when the port is open. gunicorn opens it before it forks its worker, so the
  request waits in the backlog of the socket, and is answered as soon as it can be.
- HTTP on /ready: asked when the process starts, then once a second, the shortest period that there is. An
  instance then serves at whole seconds only.

https://cloud.google.com/run/docs/configuring/healthchecks
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median

from tests.bench import machine, payloads, services, weights
from tests.bench.measure import Progress
from tests.bench.services import Payload, Running, Service, post, running

# Seconds between two HTTP probes, and those that one may take.
PERIOD, TIMEOUT = 1.0, 1.0


def report(progress: Progress, *, quick: bool) -> str:
    """The machine, and a line per function: median seconds to its first answered request, with each probe."""
    described = machine.describe()
    text, photo = payloads.texts(), payloads.raw(payloads.small_jpeg())
    empty = services.function("empty", "empty", "tests/bench/empty_function.py")
    folder, build = weights.baked("int8"), weights.BUILD / "staged" / "int8"
    functions = {
        "empty function": (empty, text),
        "embed_text": (services.staged("embed_text int8", "embed_text", folder, build), text),
        "embed_image": (services.staged("embed_image int8", "embed_image", folder, build), photo),
    }
    probes: dict[str, Callable[[Running], None]] = {
        "TCP": Running.wait_until_listening,
        "HTTP": _wait_until_ready,
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    rounds = 2 if quick else 7
    with tempfile.TemporaryDirectory() as logs:
        for number in range(rounds + 1):
            for name, (service, payload) in functions.items():
                for probe, wait in probes.items():
                    progress(f"{probe} probe {number or 'uncounted'}/{rounds}: {name}")
                    taken = _first_answer(service, payload, wait, Path(logs))
                    # The first round brings every file into the page cache.
                    if number:
                        seconds.setdefault((name, probe), []).append(taken)
    rows = [["first answered request, s", *(f"{probe} probe" for probe in probes)]]
    rows += ([name, *(f"{median(seconds[name, probe]):.2f}" for probe in probes)] for name in functions)
    return f"{described}\n\n{machine.markdown(rows)}"


def _first_answer(service: Service, payload: Payload, wait: Callable[[Running], None], logs: Path) -> float:
    """Seconds from the start of the process to the answer of a request that is sent when `wait` returns."""
    with running(service, logs) as server:
        wait(server)
        with closing(server.connect()) as connection:
            status = post(connection, payload).status
        if status != 200:
            raise RuntimeError(f"{service.name} answered {status}:\n{server.log.read_text()[-4000:]}")
        return time.perf_counter() - server.started


def _wait_until_ready(server: Running) -> None:
    """Ask /ready as an HTTP probe does, until it answers 200."""
    due = server.started
    while not _is_ready(server):
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} has ended:\n{server.log.read_text()[-4000:]}")
        due += PERIOD * max(1, math.ceil((time.perf_counter() - due) / PERIOD))
        time.sleep(max(0.0, due - time.perf_counter()))


def _is_ready(server: Running) -> bool:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)) as connection:
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
