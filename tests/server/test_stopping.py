"""A server that is told to stop answers what was begun before, and ends cleanly."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.support.pictures import in_base64, picture
from tests.support.serving import serving, worker

CLIENTS = 16
BODY = b'{"texts": ["a photo of a cat"]}'
JSON = {"Content-Type": "application/json"}


@dataclass
class Load:
    """What clients sent, and what became of it, before `stopped`, a time of time.monotonic()."""

    stopped: float = float("inf")
    answered: int = 0
    # When requests began that were not answered.
    lost: list[float] = field(default_factory=list)

    def lost_before_the_signal(self) -> list[float]:
        return [began - self.stopped for began in self.lost if began < self.stopped]


def one_connection_each(address: tuple[str, int], load: Load) -> None:
    while True:
        connection = HTTPConnection(*address, timeout=20)
        try:
            connection.connect()
        except OSError:
            # Nobody listens any more.
            return
        began = time.monotonic()
        send(connection, began, {**JSON, "Connection": "close"}, load)
        connection.close()


def kept_alive(address: tuple[str, int], load: Load) -> None:
    while True:
        connection = HTTPConnection(*address, timeout=20)
        try:
            connection.connect()
        except OSError:
            return
        reused = True
        while reused:
            # What was sent belongs to the server once it is in its system's buffer.
            reused = send(connection, None, JSON, load)
        connection.close()


def send(connection: HTTPConnection, began: float | None, headers: dict[str, str], load: Load) -> bool:
    """Whether the connection may be used for another request."""
    try:
        connection.request("POST", "/", BODY, headers)
        began = began or time.monotonic()
        reply = connection.getresponse()
        if reply.status == 200 and len(reply.read()) > 1000:
            load.answered += 1
            return not reply.will_close
    except (OSError, HTTPException):
        pass
    load.lost.append(began or time.monotonic())
    return False


def stop_under_load(client: Callable[[tuple[str, int], Load], None], requests: int, log: Path) -> Load:
    """Stop a server while clients send, once so many requests were answered."""
    load = Load()
    with serving("embed_text", log) as server:
        server.get("/ready")
        host, port = server.url.removeprefix("http://").split(":")
        threads = [threading.Thread(target=client, args=((host, int(port)), load)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while load.answered < requests:
            time.sleep(0.01)
        load.stopped = time.monotonic()
        server.process.terminate()
        for thread in threads:
            thread.join()
        assert server.process.wait(20) == 0
    return load


@pytest.mark.parametrize("client", [one_connection_each, kept_alive])
def test_nothing_begun_is_lost_when_the_server_stops(
    client: Callable[[tuple[str, int], Load], None], log: Path
) -> None:
    load = stop_under_load(client, 150, log)

    assert load.lost_before_the_signal() == []


@pytest.mark.full
@pytest.mark.parametrize("client", [one_connection_each, kept_alive])
def test_nothing_of_5000_requests_is_lost_in_ten_stops(
    client: Callable[[tuple[str, int], Load], None], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = [stop_under_load(client, 500, log) for _ in range(10)]

    with capsys.disabled():
        print(f"{sum(load.answered for load in loads)} answered")
    assert [load.lost_before_the_signal() for load in loads] == [[]] * 10


def read_all(client: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    with client, client.makefile("rb") as stream:
        return stream.read()


def test_connections_that_wait_to_be_accepted_are_served(log: Path) -> None:
    with serving("embed_text", log) as server:
        server.get("/ready")
        host, port = server.url.removeprefix("http://").split(":")
        serving_process = worker(server)
        # While it stands still, connections wait in the system's backlog.
        os.kill(serving_process, signal.SIGSTOP)
        clients = [socket.create_connection((host, int(port)), timeout=20) for _ in range(100)]
        for client in clients:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.process.terminate()
        time.sleep(0.3)
        os.kill(serving_process, signal.SIGCONT)

        replies = [read_all(client) for client in clients]

    assert {reply.split(b"\r\n")[0] for reply in replies} == {b"HTTP/1.1 200 OK"}
    assert all(b"Connection: close" in reply for reply in replies)


def test_a_request_that_is_arriving_is_answered(log: Path) -> None:
    with serving("embed_text", log) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            head = (
                f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}"
            )
            client.sendall(f"{head}\r\n\r\n".encode() + BODY[:10])
            time.sleep(0.3)
            server.process.terminate()
            time.sleep(0.5)
            client.sendall(BODY[10:])
            reply = read_all(client)

    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in reply


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_runs_the_model_ends_without_a_word(log: Path, tmp_path: Path, signum: int) -> None:
    pictures = {"image": [in_base64(picture("chelsea"))] * 1000}
    with serving("gateway", log, JOBS_URL=(tmp_path / "jobs").as_uri()) as server:
        server.get("/ready")
        job = server.post("/api/tasks/image-embedding/batched/demo/jobs", json=pictures)
        assert job.status_code == 200
        attempts = tmp_path / "jobs" / job.json()["id"] / "attempts"
        while not attempts.is_dir():
            time.sleep(0.01)
        time.sleep(0.5)
        # As Ctrl-C does, to both processes.
        pids = [worker(server), server.process.pid] if signum == signal.SIGINT else [server.process.pid]
        for pid in pids:
            os.kill(pid, signum)
        assert server.process.wait(20) == 0

    printed = log.read_text()
    assert "terminate" not in printed
    assert "Traceback" not in printed
    # The run that was interrupted does not count. (On a very fast machine, it ended in time.)
    assert attempts.exists() == (attempts.parent / "result.json").exists()
