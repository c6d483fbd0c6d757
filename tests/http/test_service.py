"""What every function answers alike: status, errors, limits, overload."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from clip_embeddings.config import Settings
from clip_embeddings.functions import find_function
from clip_embeddings.http.endpoints import load_protocols, protocol_routes
from tests.support.pictures import data_uri, in_base64, picture
from tests.support.serving import Server, error_code, error_message, serving
from tests.support.vectors import assert_images, assert_texts

FUNCTIONS: dict[str, list[str]] = {
    "embed_text": ["/embed/text", "/encode_text", "/search"],
    "embed_image": ["/embed/image", "/encode_image", "/upload"],
    "embed_mixed": ["/embed/mixed"],
    "gateway": ["/embed/image", "/embed/mixed", "/embed/text", "/encode_image", "/encode_text", "/upload"],
}
# What every function tells about itself.
STATUS = ["/", "/docs", "/health", "/openapi.json", "/ready"]
# Of the gateway alone.
SEARCH = ["/search", "/similar", "/collection", "/duplicates", "/map", "/thumbnail", "/original"]


@dataclass(frozen=True)
class Function:
    """A running function, the paths that take its POSTs, and what its /health said when it was new."""

    name: str
    paths: list[str]
    server: Server
    health: requests.Response


@pytest.fixture(scope="module", params=FUNCTIONS)
def function(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """Each function in turn."""
    name = request.param
    with serving(name, tmp_path_factory.mktemp(name) / "log") as server:
        yield Function(name, FUNCTIONS[name], server, server.get("/health"))


def test_health_tells_when_the_model_is_loaded(function: Function) -> None:
    function.server.get("/ready")
    after = function.server.get("/health")

    assert function.health.status_code == after.status_code == 200
    if not find_function(function.name).preload:
        assert function.health.json() == {"status": "healthy", "model_loaded": False, "model": "demo"}
    assert after.json() == {"status": "healthy", "model_loaded": True, "model": "demo"}


def test_ready_loads_the_model_and_tries_its_canaries(function: Function) -> None:
    reply = function.server.get("/ready")

    assert (reply.status_code, reply.json()) == (200, {"status": "ready", "model": "demo"})


def test_the_status_names_function_model_and_routes(function: Function) -> None:
    name, paths, server = function.name, function.paths, function.server
    body = server.get("/").json()

    assert name in body["status"]
    # The notebook API's name for it.
    assert body["message"] == body["status"]
    assert body["model"] == "demo"
    assert body["models"] == ["demo"]
    jobs = [path for path in body["routes"] if path.startswith(("/api/tasks", "/api/models", "/api/legacy"))]
    assert bool(jobs) == (name == "gateway")
    search = SEARCH if name == "gateway" else []
    protocols = {route.documented_path for route in protocol_routes(name, load_protocols(), None, Settings())}
    assert set(paths) <= protocols
    assert body["routes"] == sorted({*STATUS, *protocols, *jobs, *search})


@pytest.mark.parametrize("path", [*STATUS, "/health/", "/ready/?probe=1"])
def test_head_is_get_without_a_body(function: Function, path: str) -> None:
    reply = function.server.ask("HEAD", path)

    assert reply.status_code == 200
    assert reply.content == b""


@pytest.mark.parametrize(
    "path", ["/nothing", "/embed/nothing", "/embed/text/more", "/Embed/Text", "/embed//text", "/%2e%2e/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths(function: Function, path: str, method: str) -> None:
    paths, server = function.paths, function.server
    reply = server.ask(method, path)

    assert reply.status_code == 404
    assert error_code(reply) == "route_unknown"
    for known in paths:
        assert known in error_message(reply)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_methods_that_an_embedding_path_does_not_take(function: Function, method: str) -> None:
    paths, server = function.paths, function.server
    for path in paths:
        reply = server.ask(method, path)
        assert reply.status_code == 405
        assert reply.headers["Allow"] == "OPTIONS, POST"
        assert error_code(reply) == "method_not_allowed"
        if method != "HEAD":
            assert error_message(reply) == f"{method} is not allowed at this path; use POST."


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs"])
def test_methods_that_a_status_path_does_not_take(function: Function, path: str) -> None:
    paths, server = function.paths, function.server
    for method in ("POST", "PUT", "DELETE"):
        reply = server.ask(method, path)
        assert reply.status_code == 405
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert paths[0] in error_message(server.post(path))


def test_methods_at_the_root(function: Function) -> None:
    name, paths, server = function.name, function.paths, function.server
    reply = server.ask("PUT", "/")

    assert reply.status_code == 405
    assert reply.headers["Allow"] == (
        "GET, HEAD, OPTIONS" if name == "gateway" else "GET, HEAD, OPTIONS, POST"
    )
    if name == "gateway":
        assert paths[0] in error_message(server.post("/", json={"texts": ["a"]}))


def test_options_tells_the_methods_of_a_path(function: Function) -> None:
    for path, allowed in ((function.paths[0], "OPTIONS, POST"), ("/health", "GET, HEAD, OPTIONS")):
        reply = function.server.ask("OPTIONS", path)
        assert (reply.status_code, reply.headers["Allow"], reply.content) == (204, allowed, b"")
    assert function.server.ask("OPTIONS", "/nothing").status_code == 404


def test_a_trailing_slash_changes_nothing(gateway: Server) -> None:
    assert_texts(gateway.post("/embed/text/", json={"texts": ["a"]}).json()["embeddings"], "a")
    assert gateway.get("/health/").status_code == 200


def test_server_timing_tells_where_the_time_went(gateway: Server) -> None:
    timing = gateway.post("/embed/image", json={"images": [in_base64(picture())]}).headers["Server-Timing"]

    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert list(stages) == ["parse", "load", "decode", "model", "write", "total"]
    parts = [float(value) for name, value in stages.items() if name != "total"]
    assert sum(parts) <= float(stages["total"]) + 0.5
    assert gateway.get("/nothing").headers["Server-Timing"].startswith("total;dur=")


def test_sixteen_clients_get_their_own_vectors(gateway: Server) -> None:
    names = ["chelsea", "coffee", "astronaut", "rocket"]

    def client(number: int) -> None:
        name, text = names[number % 4], f"text number {number}"
        data = picture(name)
        for _ in range(3):
            if number % 4 == 0:
                body = gateway.post("/embed/text", json={"texts": [text, "b"]}).json()
                assert_texts(body["embeddings"], text, "b")
            elif number % 4 == 1:
                assert_texts([gateway.post("/embed/text", data={"text": text}).json()["embedding"]], text)
            elif number % 4 == 2:
                assert_images([gateway.post("/embed/image", files={"file": data}).json()["embedding"]], data)
            else:
                body = gateway.post("/embed/mixed", json={"texts": [text], "images": [data_uri(data)]}).json()
                assert_texts(body["text_embeddings"], text)
                assert_images(body["image_embeddings"], data)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))


def test_a_full_queue_is_told_to_come_back(log: Path) -> None:
    slow = {"texts": [f"{'word ' * 70}{number}" for number in range(256)]}
    with serving("embed_text", log, MAX_WAITING="0") as server, ThreadPoolExecutor(6) as pool:
        server.get("/ready")
        replies = list(pool.map(lambda _: server.post("/", json=slow), range(6)))
        alone = server.post("/", json={"texts": ["a"]})

    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused
    for reply in refused:
        assert reply.status_code == 429
        assert reply.headers["Retry-After"] == "1"
        assert error_code(reply) == "overloaded"
    assert_texts(alone.json()["embeddings"], "a")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with low limits."""
    log = tmp_path_factory.mktemp("strict") / "log"
    with serving(
        "gateway",
        log,
        MAX_ITEMS="3",
        MAX_REQUEST_BYTES="60000",
        MAX_IMAGE_BYTES="20000",
        MAX_IMAGE_PIXELS="5000",
        MAX_TEXT_CHARS="10",
    ) as server:
        yield server


def test_as_much_as_is_allowed(strict: Server) -> None:
    texts = ["x" * 10] * 3
    assert_texts(strict.post("/embed/text", json={"texts": texts}).json()["embeddings"], *texts)
    assert strict.post("/embed/text", data={"text": "🎂" * 10}).status_code == 200
    data = picture(size=(100, 50))
    assert_images([strict.post("/embed/image", files={"file": data}).json()["embedding"]], data)


def test_too_many_items(strict: Server) -> None:
    for path, body in (
        ("/embed/text", {"texts": ["a"] * 4}),
        ("/embed/image", {"urls": ["a"] * 4}),
        ("/embed/mixed", {"texts": ["a"] * 2, "images": ["a"] * 2}),
    ):
        reply = strict.post(path, json=body)
        assert (reply.status_code, error_code(reply)) == (413, "too_many_items")
        assert error_message(reply) == "The request has 4 items; 3 are allowed."


def test_too_long_a_text(strict: Server) -> None:
    reply = strict.post("/embed/text", data={"text": "x" * 11})
    assert (reply.status_code, error_code(reply)) == (413, "text_too_long")
    body = strict.post("/embed/text", json={"texts": ["x" * 11, "x" * 10]}).json()
    assert body["errors"][0]["code"] == "text_too_long"
    assert_texts(body["embeddings"][1:], "x" * 10)


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "undeclared"])
@pytest.mark.parametrize(
    ("path", "media_type", "size"),
    [
        ("/embed/text", "application/json", 60_001),
        ("/embed/text", "application/x-www-form-urlencoded", 60_001),
        ("/embed/text", "multipart/form-data; boundary=x", 60_001),
        ("/embed/image", "multipart/form-data; boundary=x", 60_001),
        ("/embed/image", "image/jpeg", 20_001),
        ("/embed/mixed", "application/json", 1_000_000),
    ],
)
def test_too_many_bytes(strict: Server, path: str, media_type: str, size: int, chunked: bool) -> None:
    start = (
        b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
        if "boundary" in media_type
        else b"text="
    )
    body = start.ljust(size, b" ")
    headers = {"Content-Type": media_type}
    reply = strict.post(path, data=iter([body[:100], body[100:]]) if chunked else body, headers=headers)

    assert (reply.status_code, error_code(reply)) == (413, "request_too_large")
    assert "20,000" in error_message(reply) or "60,000" in error_message(reply)
    # The connection is still good for the next request.
    assert strict.get("/health").status_code == 200


def test_a_length_over_the_limit_is_refused_before_a_byte_is_sent(strict: Server) -> None:
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(
            b"POST /embed/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000000000\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("impatient") / "log"
    with serving("gateway", log, BODY_TIMEOUT="0.5", THREADS="1") as server:
        yield server


@pytest.mark.parametrize(
    ("path", "media_type", "length", "start"),
    [
        ("/embed/text", "application/json", "Content-Length: 1000", b'{"texts": ["a'),
        ("/embed/text", "application/json", "Transfer-Encoding: chunked", b'ff\r\n{"texts": ["a'),
        ("/embed/text", "application/x-www-form-urlencoded", "Content-Length: 1000", b"text=a"),
        ("/embed/image", "multipart/form-data; boundary=b", "Content-Length: 1000", b"--b\r\nContent-"),
        ("/embed/image", "image/png", "Content-Length: 1000", b"\x89PNG"),
        ("/nowhere", "application/json", "Content-Length: 1000", b'{"texts": ["a'),
    ],
)
def test_a_client_that_falls_silent_frees_its_thread(
    impatient: Server, path: str, media_type: str, length: str, start: bytes
) -> None:
    host, port = impatient.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\n{length}\r\n\r\n"
        client.sendall(head.encode() + start)

        # There is one thread: it is free again while this connection is still open.
        assert impatient.post("/embed/text", data={"text": "a"}).status_code == 200
        reply = client.makefile("rb").read()

    if path == "/nowhere":
        assert reply.startswith(b"HTTP/1.1 404 ")
    else:
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nEmbedding-Error-Code: body_timeout\r\n" in reply


def test_too_large_an_image(strict: Server) -> None:
    data = picture(size=(100, 100)).ljust(20_001, b"\0")
    listed = strict.post("/embed/image", json={"images": [in_base64(data), data_uri(data)]}).json()
    assert [error["code"] for error in listed["errors"]] == ["image_too_large"] * 2
    reply = strict.post("/embed/image", files={"file": data})
    assert (reply.status_code, error_code(reply)) == (413, "image_too_large")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WebP"])
def test_too_many_pixels(strict: Server, kind: str) -> None:
    data = picture(kind=kind, size=(101, 50))
    listed = strict.post("/embed/image", json={"images": [in_base64(data)]}).json()
    assert [error["code"] for error in listed["errors"]] == ["image_too_many_pixels"]
    reply = strict.post("/embed/image", files={"file": data})
    assert (reply.status_code, error_code(reply)) == (413, "image_too_many_pixels")
    assert "5,000" in error_message(reply)


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/chat/completions", {"message", "type", "param", "code"}),
        ("/v1/projects/p/nothing", {"code", "message", "status"}),
        ("/embed/nothing", {"code", "message"}),
    ],
)
def test_an_unknown_path_is_refused_in_the_words_of_the_nearest_protocol(
    gateway: Server, path: str, keys: set[str]
) -> None:
    assert set(gateway.post(path, json={}).json()["error"]) == keys


@pytest.mark.parametrize(("path", "keys"), [("/api/chat", {"error"}), ("/api/tasks/x/y/z", {"detail"})])
def test_an_unknown_path_below_api_is_refused_as_by_ollama_or_the_job_server(
    gateway: Server, path: str, keys: set[str]
) -> None:
    assert set(gateway.post(path, json={}).json()) == keys


def test_a_very_long_name_of_a_model_is_refused_at_once(gateway: Server) -> None:
    reply = gateway.post("/embed/text", json={"texts": ["a"], "model": "demo" + "_" * 5_000_000})

    assert (reply.status_code, error_code(reply)) == (404, "model_unknown")
    assert len(reply.content) < 1000
    # Milliseconds; comparing the whole name took hundreds.
    assert "total;dur=" in reply.headers["Server-Timing"]
