"""Real functions in real processes: started on a free loopback port, asked over HTTP, stopped again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import requests

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-long-random-key-0123456789"


@dataclass(frozen=True)
class Server:
    """A running function. `log` is the file that holds what it prints."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """POST without any proxy of the environment."""
        return self.ask("POST", path, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """GET without any proxy of the environment."""
        return self.ask("GET", path, **arguments)

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Any method without any proxy of the environment."""
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, **{"timeout": 60, **arguments})


@contextmanager
def serving(
    target: str, log: Path, source: str = "main.py", *, prefix: Sequence[str] = (), **settings: str
) -> Iterator[Server]:
    """Run functions-framework for `target` with `settings` as its environment, until the block ends.

    `prefix` is a command that runs the command after it.
    """
    port = free_port()
    command = [*prefix, sys.executable, "-m", "functions_framework", "--target", target, "--source", source]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=environment(settings),
            stdout=output,
            stderr=output,
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", process, log)
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without this package's settings, plus `settings`."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {key: os.environ[key] for key in kept if key in os.environ} | dict(settings)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at once:\n{server.log.read_text()}")
        try:
            server.get("/health")
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


def refusal(target: str = "embed_text", **settings: str) -> str:
    """What a function that must not start prints; asserts that it ends by itself, and in one line."""
    command = [
        sys.executable,
        "-m",
        "functions_framework",
        "--target",
        target,
        "--source",
        "main.py",
        "--port",
        "0",
    ]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith(f"{target} cannot start: ")
    return ended.stderr


def worker(server: Server) -> int:
    """The process that answers, forked from the one that was started."""
    pid = server.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def error_code(reply: requests.Response) -> str:
    """The stable code of an error reply, of any protocol."""
    return reply.headers["Embedding-Error-Code"]


def error_message(reply: requests.Response) -> str:
    """The sentence of an error reply: of a native one, or of one whose `error` is text."""
    error = reply.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


def provenance(reply: requests.Response) -> dict[str, str]:
    """The headers that say where a reply's vectors come from, decoded: `Embedding-Model` as `model`, ..."""
    return {
        name.lower().removeprefix("embedding-"): unquote(value)
        for name, value in reply.headers.items()
        if name.lower().startswith("embedding-")
    }
