"""Where a request ends does not depend on how its bytes are cut into reads."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from clip_embeddings.server.buffering import MAX_CHUNK_LINE, MAX_FRAMING, ChunkScanner, HeadScanner, Progress

MAX_HEAD, MAX_BODY = 2000, 100_000
HEADS = {
    "one line": (b"GET / HTTP/1.1\r\n\r\n", Progress.COMPLETE),
    "headers": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", Progress.COMPLETE),
    "an empty line first": (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", Progress.COMPLETE),
    "half": (b"GET / HTTP/1.1\r\nHost: x\r\n", Progress.MORE),
    "a lone CR at the end": (b"GET / HTTP/1.1\r\n\r", Progress.MORE),
    "nothing": (b"", Progress.MORE),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", Progress.MALFORMED),
    "one bare line feed": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", Progress.MALFORMED),
    "too long a line": (b"GET /" + b"a" * MAX_HEAD, Progress.TOO_LARGE),
    "too many lines": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", Progress.TOO_LARGE),
    "as long as allowed": (b"GET /".ljust(MAX_HEAD - 4, b"a") + b"\r\n\r\n", Progress.COMPLETE),
    "one byte more": (b"GET /".ljust(MAX_HEAD - 3, b"a") + b"\r\n\r\n", Progress.TOO_LARGE),
}
BODIES = {
    "one chunk": (b"5\r\nabcde\r\n0\r\n\r\n", Progress.COMPLETE),
    "no data": (b"0\r\n\r\n", Progress.COMPLETE),
    "several chunks": (b"5\r\nabcde\r\nA\r\n0123456789\r\n0\r\n\r\n", Progress.COMPLETE),
    "data like framing": (b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", Progress.COMPLETE),
    "extensions": (b'5;a=b;c="d"\r\nabcde\r\n0;e\r\n\r\n', Progress.COMPLETE),
    "trailers": (b"1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n", Progress.COMPLETE),
    "no end": (b"5\r\nabcde\r\n0\r\n", Progress.MORE),
    "half a chunk": (b"ff\r\nabc", Progress.MORE),
    "half a size": (b"f", Progress.MORE),
    "half a trailer": (b"0\r\nA: b\r\n", Progress.MORE),
    "no size": (b"\r\n\r\n", Progress.MALFORMED),
    "a negative size": (b"-5\r\nabcde\r\n", Progress.MALFORMED),
    "not a number": (b"5_0\r\nabcde\r\n", Progress.MALFORMED),
    "a size without end": (b"0" * (MAX_CHUNK_LINE + 1), Progress.MALFORMED),
    "too long an extension": (b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\n", Progress.MALFORMED),
    "a trailer without end": (b"0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", Progress.MALFORMED),
    "a bare line feed in a trailer": (b"0\r\nA: b\nC: d\r\n\r\n", Progress.MALFORMED),
    "a huge chunk": (b"%x\r\n" % (MAX_BODY + 1), Progress.TOO_LARGE),
    "a chunk of 16 digits": (b"ffffffffffffffff\r\n", Progress.TOO_LARGE),
    "too many small chunks": (
        b"1;%b\r\na\r\n" % (b"x" * 8000) * (MAX_FRAMING // 8000 + 1),
        Progress.TOO_LARGE,
    ),
}


def cuts(data: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces, none of them empty."""
    noise = random.Random(seed)
    count = min(noise.choice([0, 1, 3, 10, len(data)]), max(0, len(data) - 1), 300)
    places = sorted(noise.sample(range(1, len(data)), count)) if count else []
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


def scan(scanner: HeadScanner | ChunkScanner, pieces: list[bytes]) -> tuple[Progress, int]:
    """What `scanner` says after the piece that decides, and the size that it finds."""
    data, progress = bytearray(), Progress.MORE
    for piece in pieces:
        data += piece
        progress = scanner.scan(data)
        if progress is not Progress.MORE:
            break
    return progress, scanner.size


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("rest", [b"", b"abc", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_head_ends_where_it_ends_however_it_is_cut(name: str, rest: bytes) -> None:
    head, expected = HEADS[name]
    if expected is Progress.MORE:
        rest = b""

    for seed in range(40):
        progress, size = scan(HeadScanner(MAX_HEAD), cuts(head + rest, seed))
        assert progress is expected
        assert size == (len(head) if expected is Progress.COMPLETE else 0)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("rest", [b"", b"abc", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_chunked_body_ends_where_it_ends_however_it_is_cut(name: str, rest: bytes) -> None:
    body, expected = BODIES[name]
    if expected is Progress.MORE:
        rest = b""

    for seed in range(20):
        progress, size = scan(ChunkScanner(MAX_BODY), cuts(body + rest, seed))
        assert progress is expected
        assert size == (len(body) if expected is Progress.COMPLETE else 0)


def test_noise_is_the_same_however_it_is_cut() -> None:
    alphabet = [b"\r", b"\n", b"\r\n", b"0", b"5", b";", b"a", b"\r\n\r\n", b"1\r\na\r\n", b"0\r\n"]
    for seed in range(500):
        noise = random.Random(seed)
        data = b"".join(noise.choices(alphabet, k=noise.randrange(1, 40)))
        for make in (lambda: HeadScanner(30), lambda: ChunkScanner(20)):
            whole = scan(make(), [data])
            assert all(scan(make(), cuts(data, cut)) == whole for cut in range(5)), data


def test_many_small_reads_take_time_in_proportion_to_the_bytes() -> None:
    scanner, data = ChunkScanner(10**9), bytearray(b"%x\r\n" % 10**8)
    scanner.scan(data)
    # Ten million bytes looked at anew for each of these would take minutes.
    data += bytes(10**7)
    for _ in range(20_000):
        data += b"\r"
        assert scanner.scan(data) is Progress.MORE
