"""What the clients of a soak do: useful requests of every kind, bad, hostile, slow and broken ones."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from random import Random

from tests.bench import payloads
from tests.support.hostile_images import DAMAGED, OVERSIZED
from tests.support.hostile_pictures import hostile_picture
from tests.support.photographs import detailed_12mp_jpeg
from tests.support.pictures import FORMATS, picture

TIMEOUT = 120
# What a request got: the status as text, or how the connection ended.
Outcome = str


@dataclass(frozen=True)
class Target:
    """The gateway under test: its port, and the name of its model."""

    port: int
    model: str

    def connect(self) -> HTTPConnection:
        """Open a connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)


@dataclass(frozen=True)
class Kind:
    """A kind of client: how often it is chosen, the outcomes that are right, and what it does."""

    weight: int
    expected: frozenset[Outcome]
    act: Callable[[Target, Random], Outcome]


def _ask(
    target: Target, path: str, body: bytes = b"", media_type: str = "application/json", method: str = "POST"
) -> Outcome:
    return str(_exchange(target, path, body, media_type, method)[0].status)


def _exchange(
    target: Target, path: str, body: bytes, media_type: str = "application/json", method: str = "POST"
) -> tuple[HTTPResponse, bytes]:
    with closing(target.connect()) as connection:
        connection.request(method, path, body, {"Content-Type": media_type} if body else {})
        response = connection.getresponse()
        return response, response.read()


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def _caption(random: Random, words: int) -> str:
    return " ".join(random.choices(payloads.WORDS, k=words)) + f" {random.randrange(10**6)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _photo(kind: str) -> bytes:
    return picture("coffee", kind, (640, 480))


@cache
def _small() -> bytes:
    return payloads.small_jpeg()


def _texts(target: Target, texts: list[str]) -> Outcome:
    return _ask(target, "/embed/text", _json({"texts": texts}))


def _upload(target: Target, data: bytes) -> Outcome:
    payload = payloads.upload(data)
    return _ask(target, payload.path, payload.body, payload.content_type)


def _mixed(target: Target, random: Random) -> Outcome:
    images = [_base64(_photo(random.choice(FORMATS))) for _ in range(3)]
    return _ask(target, "/embed/mixed", _json({"texts": [_caption(random, 5)] * 4, "images": images}))


def _search(target: Target, random: Random) -> Outcome:
    return _ask(target, "/search", _json({"text": _caption(random, 3), "k": 5}))


def _job(target: Target, random: Random) -> Outcome:
    base = "/api/tasks/text-embedding/batched"
    body = _json({"text": [_caption(random, 8) for _ in range(20)]})
    reply, content = _exchange(target, f"{base}/{target.model}/jobs", body)
    if reply.status != 200:
        return str(reply.status)
    deadline = time.monotonic() + TIMEOUT
    path = f"{base}/jobs/{json.loads(content)['id']}"
    while time.monotonic() < deadline:
        reply, content = _exchange(target, path, b"", method="GET")
        if reply.status not in (200, 429):
            return str(reply.status)
        if reply.status == 200 and (state := json.loads(content)["status"]) in ("complete", "failed"):
            return "200" if state == "complete" else "job failed"
        time.sleep(0.5)
    return "job unfinished"


def _bad(target: Target, random: Random) -> Outcome:
    path, body, media_type = random.choice(
        [
            ("/embed/text", b"{", "application/json"),
            ("/embed/text", _json({"texts": ["a"] * 257}), "application/json"),
            ("/embed/text", _json({"texts": "a", "model": 3}), "application/json"),
            ("/nowhere", b"{}", "application/json"),
            ("/embed/image", b"%PDF-1.7", "image/jpeg"),
            ("/embed/text", b"\xff\xfe", "text/unknown"),
            ("/v1/embeddings", _json({"input": "a", "model": "none"}), "application/json"),
        ]
    )
    return _ask(target, path, body, media_type)


def _damaged(target: Target, random: Random) -> Outcome:
    files = random.choice([DAMAGED, OVERSIZED])
    return _ask(target, "/embed/image", files[random.choice(list(files))], "image/jpeg")


def _hostile(target: Target, random: Random) -> Outcome:
    name = random.choice(["WebP lossless", "WebP animated", "AVIF RGBA", "PNG RGBA", "JPEG progressive CMYK"])
    return _ask(target, "/embed/image", hostile_picture(name), "image/jpeg")


def _slow(target: Target, random: Random) -> Outcome:
    """Send a photo in twenty pieces over four seconds."""
    data = _small()
    with closing(target.connect()) as connection:
        connection.putrequest("POST", "/embed/image")
        connection.putheader("Content-Type", "image/jpeg")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        step = len(data) // 20 + 1
        for start in range(0, len(data), step):
            connection.send(data[start : start + step])
            time.sleep(0.2)
        response = connection.getresponse()
        response.read()
        return str(response.status)


def _hang_up(target: Target, random: Random) -> Outcome:
    """Close the connection in the middle of the body, or before the reply."""
    payload = payloads.upload(detailed_12mp_jpeg() if random.random() < 0.3 else _small())
    head = (
        f"POST {payload.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {payload.content_type}\r\n"
        f"Content-Length: {len(payload.body)}\r\n\r\n"
    )
    whole = random.random() < 0.5
    # The server may end the connection first, when it is overloaded.
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", target.port), timeout=TIMEOUT) as connection,
    ):
        connection.sendall(head.encode() + payload.body[: None if whole else len(payload.body) // 2])
        time.sleep(random.random() / 10)
    return "hung up"


# Too many requests are answered with 429, whatever their kind.
_SERVED = frozenset({"200", "429"})
_REFUSED = frozenset({"400", "404", "413", "415", "422", "429"})

KINDS: Mapping[str, Kind] = {
    "short text": Kind(30, _SERVED, lambda target, random: _texts(target, [_caption(random, 4)])),
    "long text": Kind(8, _SERVED, lambda target, random: _texts(target, [_caption(random, 80)])),
    "16 texts": Kind(
        4, _SERVED, lambda target, random: _texts(target, [_caption(random, 1 + at * 4) for at in range(16)])
    ),
    "256 texts": Kind(
        1, _SERVED, lambda target, random: _texts(target, [_caption(random, 10) for _ in range(256)])
    ),
    "photo": Kind(12, _SERVED, lambda target, random: _upload(target, _small())),
    "photo of 12 megapixels": Kind(2, _SERVED, lambda target, random: _upload(target, detailed_12mp_jpeg())),
    "texts and photos": Kind(5, _SERVED, _mixed),
    "search": Kind(8, _SERVED, _search),
    "job": Kind(2, _SERVED, _job),
    "bad request": Kind(8, _REFUSED, _bad),
    "damaged picture": Kind(4, _REFUSED, _damaged),
    # Served, or refused where such a picture can never fit into the memory.
    "hostile picture": Kind(1, _SERVED | {"413"}, _hostile),
    "slow upload": Kind(5, _SERVED, _slow),
    "hang-up": Kind(6, frozenset({"hung up"}), _hang_up),
}


def act(kind: Kind, target: Target, random: Random) -> Outcome:
    """Do what `kind` does; a connection that breaks is an outcome too."""
    try:
        return kind.act(target, random)
    except (OSError, HTTPException) as error:
        return type(error).__name__
