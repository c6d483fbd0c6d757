"""Functions that get the pictures which take the most memory, many at once, within the memory they have."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.paths import MODEL_CACHE
from tests.support.hostile_pictures import PICTURES, hostile_picture, png_rgba, webp_animated, webp_lossless
from tests.support.pictures import picture, web
from tests.support.serving import Server, error_code, serving, worker

MiB = 2**20
LIMIT = 1024 * MiB
MODEL = str(MODEL_CACHE / "demo")


@contextmanager
def watched(server: Server) -> Iterator[list[int]]:
    """The anonymous memory of the process that answers, in bytes, sampled every few milliseconds."""
    status = Path(f"/proc/{worker(server)}/status")
    samples, stopped = [0], threading.Event()

    def sample() -> None:
        while not stopped.wait(0.003):
            (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            samples.append(int(line.split()[1]) * 1024)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()


def send_all(server: Server, requests_: Sequence[Sequence[bytes]]) -> list[Any]:
    """The replies to lists of pictures, sent all at once."""

    def send(pictures: Sequence[bytes]) -> Any:
        images = [base64.b64encode(picture).decode() for picture in pictures]
        reply = server.post("/embed/image", json={"images": images})
        assert reply.status_code == 200, reply.text
        return reply.json()

    with ThreadPoolExecutor(len(requests_)) as pool:
        return list(pool.map(send, requests_))


def codes(reply: Any) -> list[str]:
    return [error["code"] for error in reply["errors"]]


def test_pictures_that_take_much_memory_wait_for_each_other(log: Path) -> None:
    large = [webp_lossless(5000, 5000), webp_animated(4900, 4900), png_rgba(5000, 5000)]
    never = webp_lossless(7071, 7071)
    with serving("embed_image", log, MODEL=MODEL, MEMORY_LIMIT="1Gi") as server:
        assert server.get("/ready").status_code == 200
        with watched(server) as samples:
            replies = send_all(server, [[large[index % 3]] for index in range(4)] + [[never] * 20])

    assert [codes(reply) for reply in replies[:4]] == [[]] * 4
    assert codes(replies[4]) == ["image_too_many_pixels"] * 20
    message = replies[4]["errors"][0]["message"]
    assert "MiB of memory" in message
    assert "pixels are accepted here" in message
    assert max(samples) < 0.9 * LIMIT


@pytest.mark.full
def test_no_hostile_picture_takes_more_memory_than_the_function_has(log: Path) -> None:
    pictures = [hostile_picture(name) for name in PICTURES]
    smaller = [hostile_picture(name, 5000, 4500) for name in PICTURES]
    with serving("embed_image", log, MODEL=MODEL, MEMORY_LIMIT="1Gi") as server:
        assert server.get("/ready").status_code == 200
        with watched(server) as samples:
            send_all(server, [[hostile_picture("WebP lossless")] * 20])
            for data in (*pictures, *smaller):
                send_all(server, [[data] * 4])
            send_all(server, [[data] for data in [*pictures, *smaller][:8]])
            send_all(server, [[data] for data in [*smaller, *smaller][:8]])

    print(f"peak of anonymous memory: {max(samples) / MiB:.0f} MiB")
    assert max(samples) < 0.9 * LIMIT


def test_a_request_has_a_number_of_pixels_in_all(log: Path) -> None:
    million = webp_lossless(1000, 1000)
    with serving("embed_image", log, MAX_REQUEST_PIXELS="3000000") as server:
        (reply,) = send_all(server, [[million] * 5])

    assert codes(reply) == ["request_too_many_pixels"] * 2
    assert len([vector for vector in reply["embeddings"] if vector]) == 3


def test_a_decoding_has_a_deadline(log: Path) -> None:
    with serving("embed_image", log, DECODE_TIMEOUT="0.001") as server:
        reply = server.post("/embed/image", data=png_rgba(3000, 3000), headers={"Content-Type": "image/png"})

    assert (reply.status_code, error_code(reply)) == (422, "decode_timeout")


def test_downloads_wait_for_each_other(log: Path) -> None:
    # Bytes after the end of a picture are not looked at: each takes 15 MB while it is downloaded.
    files = {f"/{index}": picture() + bytes(15_000_000) for index in range(8)}
    with (
        web(files) as url,
        serving("embed_image", log, MEMORY_LIMIT="512Mi", FETCH_PRIVATE_HOSTS="127.0.0.1") as server,
    ):
        assert server.get("/ready").status_code == 200
        with watched(server) as samples:
            time.sleep(0.1)
            before = max(samples)
            reply = server.post("/embed/image", json={"urls": [url + path for path in files]})

    assert reply.json()["errors"] == []
    assert max(samples) - before < 100 * MiB
