"""Who may call: the API key, and the origins of browsers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.support.raw_http import exchange
from tests.support.serving import KEY, Server, error_code, serving

ORIGIN = "https://photos.example"
# Checks that say nothing but whether the service lives.
PUBLIC = ("/health", "/ready", "/ping", "/.well-known/live", "/.well-known/ready")
# Of a service account, as Cloud Run's callers send it; the signature is not ours to check.
IDENTITY_TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhY2NvdW50cyJ9.c2lnbmF0dXJl"  # noqa: S105
PROVENANCE = ("Model", "Dimensions", "Space", "Fingerprint", "Truncated")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("closed") / "log"
    with serving("gateway", log, API_KEY=KEY, ALLOWED_ORIGINS=f"{ORIGIN},http://localhost:3000") as server:
        yield server


def _operations(server: Server) -> list[tuple[str, str]]:
    document = server.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    return [(method, path) for path, found in document["paths"].items() for method in found]


def test_without_the_key_only_checks_answer(closed: Server) -> None:
    operations = _operations(closed)
    assert len(operations) > 8

    for method, path in operations:
        reply = closed.ask(method.upper(), path.replace("{", "").replace("}", ""))
        if path in PUBLIC:
            assert reply.status_code in (200, 204, 503)
        else:
            assert reply.status_code == 401, path
            assert reply.json().keys() <= {"error", "error_type", "detail", "errorMessage", "message"}
            assert error_code(reply) == "api_key_required"
            assert reply.headers["WWW-Authenticate"] == "Bearer"
    methods = closed.ask("OPTIONS", "/embed/text")
    assert (methods.status_code, "Allow" in methods.headers) == (401, False)


def test_the_refusal_has_the_protocols_form(closed: Server) -> None:
    message = (
        "Send the API key as Authorization: Bearer KEY, or as the header "
        "X-API-Key or x-goog-api-key or api-key."
    )
    native = {"error": {"code": "api_key_required", "message": message}}

    assert closed.post("/embed/text", json={"texts": ["a"]}).json() == native
    assert closed.post("/search", json={"text": "a"}).json() == native
    for path, arguments in (
        ("/embed/text", {"data": {"text": "a"}}),
        ("/encode_text", {"json": {"text": "a"}}),
        ("/upload", {"json": {"imageUrl": "a"}}),
    ):
        assert closed.ask("POST", path, **arguments).json() == {"error": message}
    assert closed.get("/api/models").json() == {"detail": message}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"x-goog-api-key": KEY},
        {"api-key": KEY},
        # Cloud Run and BigQuery send an identity token, which must not hide the key.
        {"Authorization": f"Bearer {IDENTITY_TOKEN}", "X-API-Key": KEY},
        {"Authorization": f"Bearer {IDENTITY_TOKEN}", "x-goog-api-key": KEY},
        {"Authorization": f"Bearer {IDENTITY_TOKEN}", "api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "X-API-Key": "none", "x-goog-api-key": "", "api-key": "x"},
    ],
)
def test_the_key_opens(closed: Server, headers: dict[str, str]) -> None:
    assert closed.post("/embed/text", json={"texts": ["a"]}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY + "0"},
        {"X-API-Key": ""},
        {"X-API-Key": "schlüssel".encode()},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {IDENTITY_TOKEN}"},
        {"Authorization": f"Bearer {IDENTITY_TOKEN}", "X-API-Key": KEY[1:]},
        {"x-goog-api-key": KEY[:-1], "api-key": KEY.upper()},
        {"X-Goog-Key": KEY},
    ],
)
def test_anything_else_does_not(closed: Server, headers: dict[str, str]) -> None:
    assert closed.post("/embed/text", json={"texts": ["a"]}, headers=headers).status_code == 401


def test_the_key_is_in_no_log(closed: Server) -> None:
    closed.post("/embed/text", json={"texts": ["a"]}, headers={"X-API-Key": KEY})

    assert KEY not in closed.log.read_text()


def test_a_short_key_stops_start_up_and_is_not_shown(log: object) -> None:
    with pytest.raises(AssertionError) as caught, serving("gateway", log, API_KEY="hunter2"):  # type: ignore[arg-type]
        pass

    assert "API_KEY is shorter" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_preflight_needs_no_key_and_may_be_kept(closed: Server) -> None:
    reply = _preflight(closed, ORIGIN)

    assert reply.status_code == 204
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]
    assert "content-type" in reply.headers["Access-Control-Allow-Headers"].lower()
    assert "x-api-key" in reply.headers["Access-Control-Allow-Headers"].lower()
    assert int(reply.headers["Access-Control-Max-Age"]) > 0
    assert "Origin" in reply.headers["Vary"]


def test_a_preflight_allows_the_headers_of_every_client(closed: Server) -> None:
    asked = ["x-stainless-os", "x-stainless-retry-count", "x-evil", "content-type"]
    reply = _preflight(closed, ORIGIN, ",".join(asked))

    allowed = reply.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-api-key", "x-goog-api-key", "api-key"} <= set(allowed)
    assert {"x-stainless-os", "x-stainless-retry-count"} <= set(allowed)
    assert "x-evil" not in allowed


def test_a_page_may_read_where_vectors_come_from(closed: Server) -> None:
    headers = {"Origin": ORIGIN, "api-key": KEY}
    good = closed.post("/embed/text", data={"text": "a"}, headers=headers)
    bad = closed.post("/embed/text", data={}, headers=headers)

    for reply in (good, bad):
        exposed = reply.headers["Access-Control-Expose-Headers"].split(", ")
        assert {f"Embedding-{name}" for name in PROVENANCE} <= set(exposed)
        assert {"Embedding-Error-Code", "Retry-After", "Server-Timing"} <= set(exposed)
    assert {name for name in good.headers if name.startswith("Embedding-")} == {
        f"Embedding-{name}" for name in PROVENANCE if name != "Truncated"
    }


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "http://photos.example", "null"]
)
def test_other_origins_are_allowed_nothing(closed: Server, origin: str) -> None:
    reply = _preflight(closed, origin)

    assert not [name for name in reply.headers if name.startswith("Access-Control")]


def test_replies_and_errors_can_be_read_by_an_allowed_origin(closed: Server) -> None:
    good = closed.post("/embed/text", json={"texts": ["a"]}, headers={"Origin": ORIGIN, "X-API-Key": KEY})
    bad = closed.post("/embed/text", json={"texts": ["a"]}, headers={"Origin": ORIGIN})

    assert (good.status_code, bad.status_code) == (200, 401)
    assert good.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert bad.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_cors_is_closed_by_default(gateway: Server) -> None:
    reply = _preflight(gateway, ORIGIN)

    assert not [name for name in reply.headers if name.startswith("Access-Control")]


def test_any_origin_may_be_allowed(log: object) -> None:
    with serving("embed_image", log, ALLOWED_ORIGINS="*") as server:  # type: ignore[arg-type]
        assert _preflight(server, "https://any.example").headers["Access-Control-Allow-Origin"] == "*"


def _preflight(server: Server, origin: str, names: str = "content-type") -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": names,
    }
    return server.ask("OPTIONS", "/upload", headers=headers)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway as the local server starts it, whose replies any page may read."""
    log = tmp_path_factory.mktemp("local") / "log"
    hosts = "localhost,127.0.0.1,[::1]"
    with serving("gateway", log, MODEL="demo", ALLOWED_HOSTS=hosts, ALLOWED_ORIGINS="*") as server:
        yield server


# A page of rebind.example, whose name resolves to 127.0.0.1, and others that only resemble a local host.
OTHER_HOSTS = [
    "rebind.example:8080",
    "rebind.example",
    "127.0.0.1.rebind.example:8080",
    "localhost.rebind.example",
    "localhost@rebind.example",
    "rebind.example@localhost",
    "localhost:80:80",
    "localhost:x",
    "[::1].rebind.example",
    "[::2]:8080",
    "0.0.0.0:8080",
    "127.0.0.2",
    "localhost, rebind.example",
    "",
]


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize(
    "line",
    [
        "GET /search?q=cat",
        "GET /thumbnail?uri=file:///photos/cat.jpg",
        "GET /health",
        "GET /nothing",
        "GET /favicon.ico",
        "GET /openapi.json",
        "OPTIONS /embed/text",
    ],
)
def test_under_another_host_nothing_is_answered(local: Server, line: str, host: str) -> None:
    reply = exchange(
        local.url, f"{line} HTTP/1.1\nHost: {host}\nOrigin: {ORIGIN}\nAccess-Control-Request-Method: POST"
    )

    assert (reply.status, reply.headers["Embedding-Error-Code"]) == (421, "host_unknown")
    assert reply.json() == {
        "error": {
            "code": "host_unknown",
            "message": "This server answers only to the hosts 127.0.0.1, [::1], localhost; "
            "ALLOWED_HOSTS lists them.",
        }
    }
    assert [name for name in reply.headers if name.lower().startswith("access-control")] == []


def test_the_page_and_other_protocols_do_not_answer_to_another_host(local: Server) -> None:
    page = exchange(local.url, "GET / HTTP/1.1\nHost: rebind.example\nAccept: text/html")
    openai = exchange(local.url, "GET /v1/models HTTP/1.1\nHost: rebind.example")

    assert (page.status, openai.status) == (421, 421)
    assert b"<html" not in page.body
    assert openai.json()["error"]["code"] == "host_unknown"


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]", "localhost:"]
)
def test_a_local_host_on_any_port_is_answered(local: Server, host: str) -> None:
    reply = exchange(local.url, f"GET /v1/models HTTP/1.1\nHost: {host}\nOrigin: {ORIGIN}")

    assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_without_the_setting_every_host_is_answered(gateway: Server) -> None:
    assert exchange(gateway.url, "GET /health HTTP/1.1\nHost: rebind.example").status == 200
