"""BigQuery's remote functions: the request of Google's page on them, byte for byte but for its arguments.

The page: https://cloud.google.com/bigquery/docs/remote-functions, "Input format" and "Output format".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import gcs_server
from tests.support.buckets import write_object
from tests.support.pictures import in_base64, picture, web
from tests.support.serving import KEY, Server, error_code, serving
from tests.support.vectors import assert_images, assert_texts, model

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")
# The page's example, whose function has four arguments.
EXAMPLE = b"""{
 "requestId": "124ab1c",
 "caller": "//bigquery.googleapis.com/projects/myproject/jobs/myproject:US.bquxjob_5b4c112c_17961fafeaf",
 "sessionUser": "test-user@test-company.com",
 "userDefinedContext": {
  "key1": "value1",
  "key2": "v2"
 },
 "calls": [
  [null, 1, "", "abc"],
  ["abc", "9007199254740993", null, null]
 ]
}"""
HEADERS = {
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": "Google-BigQuery",
    # The identity token of the connection's service account.
    "Authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3gifQ.c2ln",
    "Accept-Encoding": "gzip",
}


def _post(server: Server, calls: Any, path: str = "/bigquery", **context: str) -> requests.Response:
    body = json.loads(EXAMPLE)
    body["calls"] = calls
    body["userDefinedContext"] |= context
    return server.post(path, data=json.dumps(body, indent=1).encode(), headers=HEADERS)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web({"/cat.jpg": CAT, "/coffee.webp": COFFEE}) as url:
        yield url


@pytest.fixture(scope="module", params=["embed_text", "embed_image", "embed_mixed"])
def function(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    """A single function, by its name."""
    log = tmp_path_factory.mktemp(request.param) / "log"
    with serving(request.param, log, FETCH_PRIVATE_HOSTS="127.0.0.1") as server:
        yield request.param, server


def test_rows_of_texts(gateway: Server) -> None:
    reply = _post(gateway, [["a cat"], [None], ["coffee"], [""]])

    assert reply.status_code == 200
    assert set(reply.json()) == {"replies"}
    first, second, third, fourth = reply.json()["replies"]
    assert second is None
    assert_texts([first, third, fourth], "a cat", "coffee", "")


def test_rows_of_pictures(gateway: Server, site: str) -> None:
    # A column of BYTES arrives as base64.
    calls = [[f"{site}/cat.jpg"], [in_base64(COFFEE)], [f"{site}/none.jpg"], ["nonsense"], [None]]

    replies = _post(gateway, calls, mode="image", model="demo").json()["replies"]

    assert_images(replies[:2], CAT, COFFEE)
    assert replies[2:] == [None, None, None]


def test_each_function_has_its_mode_at_its_root(function: tuple[str, Server], site: str) -> None:
    name, server = function
    for path in ("/", "/bigquery"):
        if name == "embed_image":
            assert_images(_post(server, [[f"{site}/cat.jpg"]], path).json()["replies"], CAT)
        else:
            assert_texts(_post(server, [["a cat"]], path).json()["replies"], "a cat")


def test_a_function_without_the_tower_fails_the_query(function: tuple[str, Server], site: str) -> None:
    name, server = function
    mode, argument = ("text", "a cat") if name == "embed_image" else ("image", f"{site}/cat.jpg")

    reply = _post(server, [[argument]], "/", mode=mode)

    if name == "embed_mixed":
        assert_images(reply.json()["replies"], CAT)
    else:
        assert (reply.status_code, error_code(reply)) == (400, "tower_missing")


def test_equal_rows_are_embedded_once(log: Path) -> None:
    with serving("embed_text", log) as server:
        replies = _post(server, [["a cat"], ["coffee"], ["a cat"], ["a cat"]], "/").json()["replies"]
        requested = log.read_text()

    assert_texts(replies, "a cat", "coffee", "a cat", "a cat")
    assert replies[0] == replies[2] == replies[3]
    assert " items=2 " in requested


def test_a_repeated_request_gets_the_same_bytes(gateway: Server) -> None:
    calls = [["a cat"], [None], ["coffee"]]

    assert _post(gateway, calls).content == _post(gateway, calls).content


def test_values_that_are_no_text_give_null_and_are_logged_without_their_contents(log: Path) -> None:
    with serving("embed_text", log) as server:
        replies = _post(server, [[1], [1.5], [True], ["x" * 10_001], ["a cat"]], "/").json()["replies"]
        logged = log.read_text()

    assert replies[:4] == [None] * 4
    assert_texts(replies[4:], "a cat")
    assert "bigquery: 4 of 5 rows are null: text_not_a_string,text_too_long" in logged
    assert "xxx" not in logged


@pytest.mark.parametrize("calls", [[], [[None]], [[None], [None]]])
def test_nothing_to_embed(gateway: Server, calls: Any) -> None:
    reply = _post(gateway, calls)

    assert reply.status_code == 200
    assert reply.json() == {"replies": [None] * len(calls)}


def test_the_pages_own_request_has_too_many_arguments(gateway: Server) -> None:
    reply = gateway.post("/bigquery", data=EXAMPLE, headers=HEADERS)

    assert (reply.status_code, error_code(reply)) == (400, "arguments_invalid")
    assert set(reply.json()) == {"errorMessage"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"calls": [["a"], []]}, 400),
        ({"calls": ["a"]}, 400),
        ({"calls": None}, 400),
        ({"requestId": "124ab1c"}, 400),
        ({"calls": [["a"]], "userDefinedContext": {"mode": "video"}}, 400),
        ({"calls": [["a"]], "userDefinedContext": {"model": "x" * 5000}}, 404),
        ({"calls": [["a"]], "userDefinedContext": {"provenance": "yes"}}, 400),
    ],
)
def test_a_wrong_definition_fails_the_query_with_a_sentence(gateway: Server, body: Any, status: int) -> None:
    reply = gateway.post("/bigquery", json=body, headers=HEADERS)

    assert reply.status_code == status
    assert set(reply.json()) == {"errorMessage"}
    assert len(reply.content) < 1024


def test_each_vector_comes_with_what_made_it_if_asked_for(gateway: Server) -> None:
    texts = _post(gateway, [["a cat"], [None]], provenance="true")
    images = _post(gateway, [[in_base64(CAT)]], provenance="true", mode="image")
    plain = _post(gateway, [["a cat"]], provenance="false")

    row, none = texts.json()["replies"]
    assert none is None
    assert row == {
        "vector": plain.json()["replies"][0],
        "space": texts.headers["Embedding-Space"],
        "fingerprint": texts.headers["Embedding-Fingerprint"],
    }
    (picture_row,) = images.json()["replies"]
    assert_images([picture_row["vector"]], CAT)
    assert picture_row["space"] == row["space"]
    assert picture_row["fingerprint"] == images.headers["Embedding-Fingerprint"]


def test_objects_of_an_allowed_bucket(log: Path) -> None:
    uri = f"gs://{gcs_server.BUCKET}/"
    with gcs_server.serving() as storage, gcs_server.connected(storage.url, "") as bucket:
        write_object(bucket, "a cat.jpg", CAT)
        write_object(bucket, "notes.txt", b"no picture")
        settings = {"STORAGE_EMULATOR_HOST": storage.url, "ALLOWED_BUCKETS": gcs_server.BUCKET}
        with serving("embed_image", log, **settings) as server:
            calls = [[f"{uri}a cat.jpg"], [f"{uri}notes.txt"], [f"{uri}none.jpg"], ["gs://others/cat.jpg"]]
            first, *others = _post(server, calls).json()["replies"]
        logged = log.read_text()

    assert_images([first], CAT)
    assert others == [None] * 3
    assert "bigquery: 3 of 4 rows are null: bucket_forbidden,image_unsupported,object_not_found" in logged


@pytest.mark.full
def test_rows_are_not_null_because_a_bucket_does_not_answer_now(log: Path) -> None:
    """Null is the result of a row for ever. With 503, BigQuery asks again."""
    settings = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9", "ALLOWED_BUCKETS": gcs_server.BUCKET}
    with serving("embed_image", log, **settings) as server:
        reply = _post(server, [[in_base64(CAT)], [f"gs://{gcs_server.BUCKET}/cat.jpg"]])

    assert (reply.status_code, error_code(reply)) == (503, "storage_unavailable")
    assert int(reply.headers["Retry-After"]) > 0
    assert set(reply.json()) == {"errorMessage"}


def test_rows_beyond_the_limits_fail_the_query(log: Path, site: str) -> None:
    texts = [[f"text {number}"] for number in range(1025)]
    pictures = [[f"{site}/{number}"] for number in range(3)]
    with serving("embed_mixed", log, MAX_ITEMS="2") as server:
        served = _post(server, texts[:40])
        refused = [_post(server, texts), _post(server, pictures, mode="image")]

    assert served.status_code == 200
    assert [(reply.status_code, error_code(reply)) for reply in refused] == [(413, "too_many_items")] * 2
    for reply, most in zip(refused, (1024, 2), strict=True):
        assert reply.json()["errorMessage"].endswith(f"set max_batching_rows to {most}.")


def test_a_reply_never_exceeds_what_bigquery_accepts(gateway: Server) -> None:
    fitting = 15_000_000 // (15 * model().manifest.dimensions)
    calls = [["a cat"]] * fitting + [[None], [1]]

    assert len(_post(gateway, calls).content) < 15_000_000
    reply = _post(gateway, [["a cat"], *calls])
    with_provenance = _post(gateway, calls, provenance="true")

    assert (reply.status_code, error_code(reply)) == (413, "too_many_items")
    assert f"max_batching_rows to {fitting}." in reply.json()["errorMessage"]
    assert with_provenance.status_code == 413


def test_a_reply_that_would_be_too_large_is_refused_before_the_model_runs(log: Path) -> None:
    most = 15_000_000 // (15 * model().manifest.dimensions)
    with serving("embed_text", log) as server:
        reply = _post(server, [[f"text {number % 1000}"] for number in range(most + 1)])
        rejected = log.read_text().splitlines()[-1]

    assert reply.status_code == 413
    assert " items=0 " in rejected
    assert "model_ms" not in rejected


def test_overload_is_retried(log: Path) -> None:
    """Only 408, 429, 500, 503 and 504 are; with no queue, one of several requests at once gets 429."""
    calls = [[f"text {number} " * 20] for number in range(256)]
    with serving("embed_text", log, MAX_WAITING="0") as server, ThreadPoolExecutor(6) as pool:
        _post(server, [["warm"]], "/")
        replies = list(pool.map(lambda _: _post(server, calls, "/"), range(6)))

    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused
    for reply in refused:
        assert (reply.status_code, set(reply.json())) == (429, {"errorMessage"})


def test_an_identity_token_does_not_hide_a_key(log: Path) -> None:
    body = {"calls": [["a cat"]]}
    with serving("embed_text", log, API_KEY=KEY) as server:
        refused = server.post("/bigquery", json=body, headers=HEADERS)
        served = server.post("/bigquery", json=body, headers={**HEADERS, "X-API-Key": KEY})

    assert (refused.status_code, set(refused.json())) == (401, {"errorMessage"})
    assert_texts(served.json()["replies"], "a cat")
