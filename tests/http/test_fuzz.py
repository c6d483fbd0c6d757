"""Malformed requests and pictures: each gets a 4xx or errors by item, and the next good one its vector."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPResponse
from pathlib import Path

import pytest

from tests.support.pictures import FORMATS, data_uri, in_base64, picture
from tests.support.serving import Server, serving, worker
from tests.support.vectors import assert_texts

SEED = 20_260_101
MiB = 1024 * 1024
# Longest time to answer anything, in seconds.
PATIENCE = 5
# Memory of the serving process, in MiB, whatever came: afterwards, and at its peak, when one of the pictures
# has 50 megapixels of four bytes.
MEMORY = {"VmRSS": 300, "VmHWM": 500}


@dataclass(frozen=True)
class Case:
    """`request` makes the bytes on the wire. `silent`: hanging up without a reply is fine too."""

    name: str
    request: Callable[[], bytes]
    silent: bool = False


def http(path: str, media_type: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    """A POST with a Content-Length that may lie."""
    lines = [
        b"POST %b HTTP/1.1" % path.encode(),
        b"Host: x",
        b"Connection: close",
        b"Content-Type: %b" % media_type.encode(),
        b"Content-Length: %d" % (len(body) if length is None else length),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def post(name: str, path: str, media_type: str, body: Callable[[], bytes] | bytes) -> Case:
    return Case(f"{name} {path}", lambda: http(path, media_type, body if isinstance(body, bytes) else body()))


def _endless(part: bytes, name: bytes) -> Callable[[], bytes]:
    return lambda: part % name + b"\r\n--" * 7 * MiB


def raw(name: str, data: bytes) -> Case:
    return Case(name, lambda: data, silent=True)


TEXT, IMAGE, MIXED = "/embed/text", "/embed/image", "/embed/mixed"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"


def wrong_types() -> Iterator[Case]:
    values = [
        "null",
        "true",
        "0",
        "-1",
        "1e308",
        "9" * 400,
        '"a"',
        "[]",
        "{}",
        "[null]",
        "[[]]",
        '[{"a": 1}]',
    ]
    good = {"texts": ["a"], "images": [in_base64(picture())]}
    for path, fields in (
        (TEXT, ("texts", "model", "normalize")),
        (IMAGE, ("urls", "images", "model", "normalize")),
        (MIXED, ("texts", "images")),
    ):
        for field in fields:
            rest = {key: value for key, value in good.items() if key != field and field != "urls"}
            start = json.dumps(rest)[:-1] + (", " if rest else "")
            for number, value in enumerate(values):
                body = f'{start}"{field}": {value}}}'.encode()
                yield post(f"type {field} {number}", path, JSON, body)


def broken_json() -> Iterator[Case]:
    bodies: dict[str, bytes | Callable[[], bytes]] = {
        "empty": b"",
        "space": b"  ",
        "nul": b"\0" * 100,
        "nan": b'{"texts": [NaN], "images": [NaN]}',
        "infinity": b'{"texts": [Infinity]}',
        "huge exponent": b'{"texts": [1e99999], "images": [1e99999]}',
        "huge number": b'{"texts": [' + b"9" * 100_000 + b"]}",
        "truncated": b'{"texts": ["a", "b',
        "trailing comma": b'{"texts": ["a",]}',
        "comment": b'{"texts": ["a"]} // a',
        "two documents": b'{"texts": ["a"]}{"texts": ["a"]}',
        "invalid utf-8": b'{"texts": ["\xff\xfe"]}',
        "overlong utf-8": b'{"texts": ["\xc0\xaf"]}',
        "raw surrogate": b'{"texts": ["\xed\xa0\x80"]}',
        "lone surrogate": rb'{"texts": ["\ud800"], "images": ["\udfff"]}',
        "surrogates swapped": rb'{"texts": ["\udc00\ud800"]}',
        "escaped nul": rb'{"texts": ["\u0000"], "images": ["\u0000"]}',
        "control character": b'{"texts": ["a\nb"]}',
        "utf-16": '{"texts": ["a"]}'.encode("utf-16"),
        "utf-32": '{"texts": ["a"]}'.encode("utf-32"),
        "duplicate keys": b'{"texts": ["a"], "texts": 5, "images": 5}',
        "prototype": b'{"__proto__": {"texts": ["a"]}, "constructor": 1}',
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "deep and closed": b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep but legal": b'{"texts": '
        + b"[" * 1000
        + b"]" * 1000
        + b', "images": ['
        + b"[" * 900
        + b"]" * 901
        + b"}",
        "huge key": b'{"' + b"k" * MiB + b'": 1}',
        "many keys": lambda: b"{" + b",".join(b'"%d":0' % number for number in range(600_000)) + b"}",
        "many lists": lambda: b'{"texts": [' + b"[]," * 10 * MiB + b"[]]}",
        "many strings": lambda: b'{"texts": [' + b'"ab",' * 6 * MiB + b'""]}',
        "many numbers": lambda: b'{"images": [' + b"0," * 15 * MiB + b"0]}",
        "many items": b'{"texts": [' + b'"a",' * 10_000 + b'"a"], "images": ["a"]}',
        "long text": lambda: b'{"texts": ["' + b"x" * 30 * MiB + b'"], "images": ["a"]}',
        "long white space": lambda: b'{"texts": ["a"], "images": ["' + b" " * 30 * MiB + b'"]}',
        "long base64": lambda: b'{"texts": ["a"], "images": ["' + b"A" * 25 * MiB + b'"]}',
        "long escapes": lambda: b'{"texts": ["' + rb"\u0041" * 5 * MiB + b'"]}',
    }
    for name, body in bodies.items():
        # What is large is the same to all paths.
        for path in (TEXT, IMAGE, MIXED) if isinstance(body, bytes) else (MIXED,):
            yield post(name, path, JSON, body)
    yield post("words without end", TEXT, JSON, json.dumps({"texts": ["a" * 10_000] * 256}).encode())
    yield post("apostrophes", TEXT, JSON, json.dumps({"texts": ["'" * 10_000, "&amp;" * 2000] * 20}).encode())
    yield post("combining marks", TEXT, JSON, json.dumps({"texts": ["e" + "\u0301" * 9999] * 20}).encode())


def forms() -> Iterator[Case]:
    part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\na\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename='
    rest = b"\r\n\r\n" + picture() + b"\r\n--x--\r\n"
    yield post("form of equals signs", TEXT, FORM, lambda: b"=" * 30 * MiB)
    yield post("form of ampersands", TEXT, FORM, lambda: b"&" * 30 * MiB)
    yield post("form of pairs", TEXT, FORM, lambda: b"&a=b" * 7 * MiB)
    yield post("form of percent signs", TEXT, FORM, lambda: b"text=" + b"%41" * 5 * MiB)
    yield post("form with bad escapes", TEXT, FORM, b"text=%zz%4%&text=%ff")
    yield post("form in latin-1", TEXT, FORM, b"text=\xe9")
    yield post("form with a nul", TEXT, FORM, b"te\0xt=a")
    yield post("form at the wrong place", IMAGE, FORM, b"file=a")
    for path, name in ((TEXT, b"text"), (IMAGE, b"file")):
        good = part % name
        yield post("no boundary", path, "multipart/form-data", good + b"--x--\r\n")
        yield post("empty boundary", path, 'multipart/form-data; boundary=""', good)
        yield post("long boundary", path, "multipart/form-data; boundary=" + "x" * 4000, good)
        yield post("boundary not in ascii", path, "multipart/form-data; boundary=é", good)
        yield post("another boundary", path, "multipart/form-data; boundary=y", good + b"--x--\r\n")
        yield post("no end", path, MULTIPART, good)
        yield post("no parts", path, MULTIPART, b"--x--\r\n")
        yield post("bare line feeds", path, MULTIPART, good.replace(b"\r", b"") + b"--x--\n")
        yield post("no name", path, MULTIPART, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n")
        yield post("no disposition", path, MULTIPART, b"--x\r\n\r\na\r\n--x--\r\n")
        yield post("no colon", path, MULTIPART, b"--x\r\nnonsense\r\n\r\na\r\n--x--\r\n")
        yield post("10,000 parts", path, MULTIPART, good * 10_000 + b"--x--\r\n")
        yield post(
            "huge part header", path, MULTIPART, b"--x\r\nX: " + b"x" * MiB + b"\r\n\r\na\r\n--x--\r\n"
        )
        yield post(
            "many part headers", path, MULTIPART, b"--x\r\n" + b"X: y\r\n" * 100_000 + b"\r\na\r\n--x--\r\n"
        )
        yield post("endless part header", path, MULTIPART, lambda: b"--x\r\nX: " + b"x" * 30 * MiB)
        yield post("endless preamble", path, MULTIPART, lambda: b"\r\n--" * 7 * MiB)
        yield post("endless part", path, MULTIPART, _endless(part, name))
        yield post(
            "nested",
            path,
            MULTIPART,
            good.replace(b"\r\n\r\n", b"\r\nContent-Type: " + MULTIPART.encode() + b"\r\n\r\n"),
        )
        yield post("name twice", path, MULTIPART, good * 2 + b"--x--\r\n")
    for number, filename in enumerate(
        [
            b'"\xed\xa0\x80"',
            b'"\0"',
            b'"',
            b"",
            b'"a\\',
            b'"' + b"n" * 100_000 + b'"',
            b"a; filename*=utf-8''%ED%A0%80",
            b"a; filename*=x''%ff",
            b"a; filename*0=a; filename*9999999999=b",
            b'"' + b"\\" * 50_000 + b'"',
        ]
    ):
        yield post(f"file name {number}", IMAGE, MULTIPART, file + filename + rest)
    for number, charset in enumerate(["utf-7", "utf-16", "nonsense", "zlib", "../../x", '"']):
        part_type = f"\r\nContent-Type: text/plain; charset={charset}\r\n\r\n+AGE-".encode()
        body = b'--x\r\nContent-Disposition: form-data; name="text"' + part_type + b"\r\n--x--\r\n"
        yield post(f"charset {number}", TEXT, MULTIPART, body)
        yield post(f"charset of all {number}", TEXT, f"{JSON}; charset={charset}", b'{"texts": [5]}')


def on_the_wire() -> Iterator[Case]:
    body = b'{"texts": ["a"]}'
    lie = [0, 5, len(body) + 1, 10_000, 2**31, 2**63, 2**64, 10**30]
    for length in lie:
        data = http(TEXT, JSON, body, length=length)
        yield raw(f"length {length}", data)
        yield raw(f"form length {length}", data.replace(JSON.encode(), FORM.encode()))
        yield raw(f"picture length {length}", http(IMAGE, "image/jpeg", picture()[:1000], length=length))
        yield raw(f"upload length {length}", http(IMAGE, MULTIPART, b"--x\r\n", length=length))
    simple = http(TEXT, JSON, body)
    for number, text in enumerate(
        [b"-1", b"a", b"", b"1 1", b"0x10", b"+16", b"16, 17", b"\xd9\xa1\xd9\xa6", b"1e1"]
    ):
        yield raw(f"length text {number}", simple.replace(b"Length: 16", b"Length: " + text))
    yield raw("two lengths", simple.replace(b"Host", b"Content-Length: 3\r\nHost"))
    chunked = simple.replace(b"Content-Length: 16", b"Transfer-Encoding: chunked").removesuffix(body)
    for number, chunks in enumerate(
        [
            b"",
            b"0",
            b"zz\r\n",
            b"-5\r\nabcde\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\na",
            b"5\r\nab",
            b"5;" + b"x" * 100_000,
            b"\r\n\r\n",
            b"10\r\n" + body + b"0\r\n\r\n",
            b"10\r\n" + body + b"\r\n",
            b"1\r\n{\r\n" * 5000 + b"0\r\n\r\n",
            b"10\r\n" + body + b"\r\n0\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        ]
    ):
        yield raw(f"chunks {number}", chunked + chunks)
        yield raw(
            f"chunks beside a length {number}",
            chunked.replace(b"Host", b"Content-Length: 4\r\nHost") + chunks,
        )
        yield raw(
            f"chunks of a picture {number}",
            chunked.replace(TEXT.encode(), IMAGE.encode()).replace(JSON.encode(), b"image/png") + chunks,
        )
    for coding in (b"gzip", b"deflate", b"compress", b"identity, gzip", b"gzip, gzip"):
        yield raw(
            f"content coding {coding[:20]!r}",
            simple.replace(b"Host", b"Content-Encoding: " + coding + b"\r\nHost"),
        )
        yield raw(
            f"transfer coding {coding[:20]!r}",
            simple.replace(b"Host", b"Transfer-Encoding: " + coding + b"\r\nHost"),
        )
    for number, header in enumerate(
        [
            b"X: " + b"x" * 100_000,
            b"X: y\r\n" * 1000 + b"X: y",
            b"no colon",
            b": no name",
            b"X : y",
            b"X: a\r\n folded",
            b"X: \0",
            b"X: \xff",
            b"\xff: x",
            b"Expect: 100-continue",
            b"Expect: nonsense",
            b"Upgrade: h2c",
            b"Range: bytes=0-",
            b"Cookie: " + b"a=b;" * 1000,
            b"X-Forwarded-Host: ../../",
            b"Content-Type: text/html",
            b"Host: a\r\nHost: b",
            b"Content-Type: " + b";" * 4000,
            b"traceparent: " + b"-" * 4000,
            b"X-Cloud-Trace-Context: \xff/\xff",
            b"Content-MD5: x",
            b"X-HTTP-Method-Override: DELETE",
        ]
    ):
        yield raw(f"header {number}", simple.replace(b"Host: x", header + b"\r\nHost: x"))
    for method in (
        b"get",
        b"TRACE",
        b"CONNECT",
        b"PROPFIND",
        b"X" * 10_000,
        b"P\xc3\x96ST",
        b"",
        b"PO ST",
        b"\0",
        b"QUERY",
    ):
        yield raw(f"method {method[:20]!r}", simple.replace(b"POST", method, 1))
    for path in (
        b"*",
        b"http://other/embed/text",
        b"//other/embed/text",
        b"/..",
        b"/../../etc/passwd",
        b"/%2e%2e/%2e%2e",
        b"/embed/text%00",
        b"/embed/text\0",
        b"/%ff%fe",
        b"/\xff",
        b"/%",
        b"/%zz",
        b"/embed/text;a=b",
        b"/embed/text?" + b"a=b&" * 100_000,
        b"/" + b"a" * MiB,
        b"/" * 10_000,
        b"/embed/text?normalize=%ff",
        b"/embed/text?model=%00%ff",
        b"",
        b"embed/text",
        b"/embed\\text",
        b"/%0d%0aX: y",
        b"/%0a",
    ):
        yield raw(f"path {path[:25]!r}", simple.replace(TEXT.encode(), path, 1))
    for version in (b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1", b"HTTP/2.0", b"", b"nonsense"):
        yield raw(f"version {version!r}", simple.replace(b"HTTP/1.1", version, 1))
    yield raw("nothing", b"")
    yield raw("line feeds", b"\r\n" * 10_000)
    yield raw("TLS", bytes.fromhex("16030100c8010000c40303") + b"\xaa" * 200)
    yield raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
    yield raw("proxy protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + simple)
    yield raw(
        "smuggled",
        simple.replace(b"Connection: close\r\n", b"").replace(b"16", b"5") + b"POST / HTTP/1.1\r\n\r\n",
    )
    for size in range(0, len(simple), 17):
        yield raw(f"cut at {size}", simple[:size])
    noise = random.Random(SEED)
    for number in range(20):
        yield raw(f"noise {number}", noise.randbytes(noise.choice([1, 10, 1000, 100_000])))


def png(width: int, height: int, data: bytes = b"", colour: int = 2) -> bytes:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pictures() -> Iterator[Case]:
    noise = random.Random(SEED)
    for kind in FORMATS:
        whole = picture(kind=kind)
        for number in range(6):
            yield post(f"{kind} cut {number}", IMAGE, "image/x", whole[: int(len(whole) * noise.random())])
        for number in range(14):
            data = bytearray(whole)
            # Most of what decoders believe is near the start.
            reach = noise.choice([32, 256, len(data)])
            for _ in range(noise.choice([1, 4, 30])):
                data[noise.randrange(min(reach, len(data)))] = noise.choice([0, 255, noise.randrange(256)])
            yield post(f"{kind} mutated {number}", IMAGE, "image/x", bytes(data))
        start = noise.randrange(len(whole))
        yield post(f"{kind} repeated", IMAGE, "image/x", whole[:start] + whole[start // 2 :])
        yield post(f"{kind} with noise", IMAGE, "image/x", whole[:64] + noise.randbytes(10_000))
        yield post(
            f"{kind} in base64",
            IMAGE,
            JSON,
            json.dumps({"images": [data_uri(whole[:-40]), data_uri(whole[:40])]}).encode(),
        )
    bombs = {
        "PNG of 10 gigapixels": png(100_000, 100_000),
        "PNG of 4 billion columns": png(2**32 - 1, 1),
        "PNG of no columns": png(0, 10),
        "PNG of 50 megapixels of nothing": png(7000, 7000),
        "PNG that unpacks to 200 MB": png(7000, 7000, zlib.compress(bytes(7000 * 7001 * 4), 9)),
        "PNG with a huge text": png(10, 10).replace(b"IDAT", b"zTXt"),
        "BMP of 2 gigapixels": b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 1000, 0, 54, 40, 2**15, 2**16, 1, 24, *[0] * 6),
        "GIF of 4 gigapixels": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + bytes(8)
        + b"\x00\x02\x00;",
        "JPEG of 4 gigapixels": picture().replace(picture()[163:167], b"\xff\xff\xff\xff"),
        "WebP of 200 gigapixels": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff" * 6,
        "HEIC with endless boxes": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0\0\0\x08free" * 100_000,
        "AVIF with a box of no size": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\0meta" * 100,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "PDF": b"%PDF-1.7 " + bytes(1000),
        "TIFF": b"II*\0" + bytes(1000),
        "script": b"#!/bin/sh\nexit 1\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        "zeros": bytes(10_000),
        "zip": b"PK\x03\x04" + bytes(1000),
    }
    for name, bomb in bombs.items():
        yield post(name, IMAGE, "image/png", bytes(bomb))
        body = json.dumps({"images": [in_base64(bytes(bomb))]}).encode()
        yield post(f"{name} in base64", IMAGE, JSON, body)
    urls = [
        "http://",
        "http:///",
        "http://[",
        "http://[::1",
        "http://a b/",
        "http://\0/",
        "http://%00/",
        "http://localhost:99999/",
        "http://1/",
        "http://0x7f.1/",
        "http://①②⑦.0.0.1/",
        "http://" + "a" * 10_000,
        "http://a:b@c:d@e/",
        "HTTP://LOCALHOST/",
        "http:\\\\localhost",
        "file:///etc/passwd",
        "ftp://localhost/",
        "gopher://localhost:70/_x",
        "javascript:alert(1)",
        "data:",
        "data:,",
        "data:;base64,",
        "data:image/png;base64,%",
        "gs://a/b",
        "blob:x",
        "http://xn--/",
        "http://\u202e/",
        "http://example\u3002com@localhost/",
        "//localhost",
        "/etc/passwd",
        "C:\\a.jpg",
        "http://169.254.169.254/",
    ]
    yield post("urls", IMAGE, JSON, json.dumps({"urls": urls}).encode())
    yield post("urls as images", MIXED, JSON, json.dumps({"texts": ["a"], "images": urls}).encode())


CASES = [*wrong_types(), *broken_json(), *forms(), *on_the_wire(), *pictures()]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway of its own, so that its memory tells of these requests alone."""
    with serving("gateway", tmp_path_factory.mktemp("fuzz") / "log", MODEL="demo") as server:
        assert server.get("/ready").status_code == 200
        yield server


def exchange(server: Server, request: bytes) -> tuple[HTTPResponse, bytes] | None:
    """The reply to `request`, after which the client stops sending, and its body."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        # A request that is refused early may not be read to its end.
        with suppress(ConnectionError):
            client.sendall(request)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        reply = HTTPResponse(client)
        try:
            reply.begin()
            return reply, reply.read()
        except (ConnectionError, BadStatusLine):
            return None


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nonsense_is_refused_and_harms_nobody(target: Server, case: Case) -> None:
    reply = exchange(target, case.request())

    assert reply or case.silent
    if reply:
        response, body = reply
        assert response.status == 200 or 400 <= response.status < 500, body
        if response.headers.get_content_type() == JSON and body and response.status != 200:
            error, code = json.loads(body)["error"], response.headers["Embedding-Error-Code"]
            assert re.fullmatch("[a-z_]+", code)
            if isinstance(error, str):
                # The protocols of forms have a sentence.
                assert error
            else:
                assert set(error) == {"code", "message"}
                assert error["code"] == code
    assert_texts(target.post(TEXT, json={"texts": ["a cat"]}).json()["embeddings"], "a cat")


def test_memory_stayed_bounded(target: Server) -> None:
    status = Path(f"/proc/{worker(target)}/status").read_text()
    used = dict(re.findall(r"(Vm\w+):\s+(\d+) kB", status))

    for name, most in MEMORY.items():
        assert int(used[name]) < most * 1024, name


def test_nothing_was_logged_as_our_fault(target: Server) -> None:
    assert "Traceback" not in target.log.read_text()
