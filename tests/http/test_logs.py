from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.logs import mask_ids, setup_logging
from tests.support.pictures import data_uri, in_base64, picture, web
from tests.support.raw_http import exchange
from tests.support.serving import Server, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


SECRETS = [f"hidden{number}" for number in range(12)]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway as on Cloud Run, telling all it can."""
    with serving(
        "gateway",
        tmp_path_factory.mktemp("cloud") / "log",
        K_SERVICE="gateway",
        GOOGLE_CLOUD_PROJECT="shop",
        LOG_LEVEL="DEBUG",
        FETCH_PRIVATE_HOSTS="127.0.0.1",
    ) as server:
        yield server


def entries(server: Server) -> list[dict[str, Any]]:
    """What the server has logged so far."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_plain_lines_by_default(log: Path) -> None:
    with serving("gateway", log, MODEL="demo") as server:
        server.post("/embed/text", json={"texts": ["a", 5]})
        server.get("/health")
        server.get("/nothing")
        server.post("/embed/text", data={"text": "a"}, headers={"traceparent": f"00-{TRACE}-{'0' * 16}-01"})

    started, opened, failed, missing, good = log.read_text().splitlines()
    assert re.search(r" INFO gateway started framework_ms=\d+ imported_ms=\d+ forked_ms=\d+", started)
    assert opened.endswith(" INFO text.onnx runs on CPU")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d WARNING gateway POST /embed/text status=200 items=2 failures=1 parse_ms=[\d.]+ "
        r"load_ms=[\d.]+ model_ms=[\d.]+ write_ms=[\d.]+ total_ms=[\d.]+ codes=text_not_a_string",
        failed,
    )
    assert " INFO gateway GET /nothing status=404 items=0 failures=0 " in missing
    assert " INFO gateway POST /embed/text status=200 items=1 failures=0 " in good
    assert TRACE not in good


PROJECT_TRACE = f"projects/shop/traces/{TRACE}"


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, PROJECT_TRACE),
        ({"X-Cloud-Trace-Context": f"{TRACE}/123;o=1"}, PROJECT_TRACE),
        ({"X-Cloud-Trace-Context": TRACE}, PROJECT_TRACE),
        ({"traceparent": "?", "X-Cloud-Trace-Context": f"{TRACE}/1"}, PROJECT_TRACE),
        ({"traceparent": f'00-{TRACE}"}}-00f067aa0ba902b7-01'}, None),
        ({"X-Cloud-Trace-Context": "a" * 65}, None),
        ({}, None),
    ],
)
def test_json_lines_in_the_cloud(cloud: Server, headers: dict[str, str], trace: str | None) -> None:
    cloud.post("/embed/text", json={"texts": ["a", "b"]}, headers=headers)

    entry = entries(cloud)[-1]
    assert entry["severity"] == "INFO"
    assert entry["message"] == "gateway POST /embed/text"
    assert (entry["status"], entry["items"], entry["failures"]) == (200, 2, 0)
    assert {"parse_ms", "load_ms", "model_ms", "write_ms", "total_ms"} <= set(entry)
    assert entry.get("logging.googleapis.com/trace") == trace


def test_failures_are_warnings_in_the_cloud(cloud: Server) -> None:
    cloud.post("/embed/image", json={"images": ["", "?", in_base64(picture())]})

    entry = entries(cloud)[-1]
    assert entry["severity"] == "WARNING"
    assert (entry["items"], entry["failures"]) == (3, 2)
    assert entry["codes"] == "image_empty,image_reference_invalid"
    assert {"decode_ms", "model_ms"} <= set(entry)


def test_nothing_that_clients_send_is_logged(cloud: Server) -> None:
    hidden = iter(SECRETS)
    headers = {"Authorization": f"Bearer {next(hidden)}", "Cookie": next(hidden), "User-Agent": next(hidden)}
    query = f"?token={next(hidden)}"
    with web({"/a": picture()}) as site:
        urls = [
            f"{site}/a?key={next(hidden)}",
            f"http://user:{next(hidden)}@127.0.0.1/",
            f"{site}/{next(hidden)}",
        ]
        cloud.post("/embed/image" + query, json={"urls": urls}, headers=headers)
    cloud.post("/embed/image", files={"file": (next(hidden), picture())}, headers=headers)
    cloud.post("/embed/image", json={"images": [next(hidden), data_uri(picture())]}, headers=headers)
    cloud.post("/embed/text", json={"texts": [next(hidden), 5]}, headers=headers)
    cloud.post("/embed/text", data={"text": next(hidden)}, headers=headers)
    cloud.post(
        "/embed/text",
        data=b'{"texts": [' + next(hidden).encode(),
        headers={"Content-Type": "application/json"},
    )

    log = cloud.log.read_text()
    for secret in (*SECRETS, in_base64(picture())[:20], "127.0.0.1", "Bearer"):
        assert secret not in log


def test_a_path_cannot_write_a_line_of_its_own(log: Path) -> None:
    with serving("gateway", log, MODEL="demo") as server:
        server.post("/x%0d12:00:00 ERROR forged")

    _, line = log.read_text().splitlines()
    assert " INFO gateway POST /x%0D12%3A00%3A00%20ERROR%20forged status=404 " in line


JOB = "3f2b8c1d-9a4e-4c6f-8b7d-1e2f3a4b5c6d"
# The same id as a client may misspell or encode it.
SPELLINGS = [
    JOB,
    JOB.upper(),
    JOB.replace("-", ""),
    JOB.replace("-", "_"),
    JOB.replace("-", "%2D"),
    "".join(f"%{ord(letter):02x}" for letter in JOB),
    "".join(f"%25{ord(letter):02X}" for letter in JOB),
    "".join(f"%2525{ord(letter):02x}" for letter in JOB),
    f"x{JOB}y",
    f"%7b{JOB}%7d",
    JOB[:-1],
    JOB[1:],
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ids_of_jobs_are_masked_wherever_they_are_in_a_path(cloud: Server, spelling: str) -> None:
    before = len(cloud.log.read_text())
    for path in (
        f"/{spelling}",
        f"/api/job/{spelling}",
        f"/api/JOBS/{spelling}",
        f"/{spelling}?id={spelling}",
    ):
        for method in ("GET", "POST", "DELETE"):
            exchange(cloud.url, f"{method} {path} HTTP/1.1\nHost: x\nContent-Length: 0")

    printed = cloud.log.read_text()[before:].lower()
    assert printed.count("...") == 12
    for part in ("9a4e", "8b7d", "1e2f3a4b", "%25"):
        assert part not in printed


def test_ids_of_jobs_are_masked_where_the_server_logs_a_url() -> None:
    setup_logging("INFO", in_cloud=False)
    record = logging.LogRecord(
        "gunicorn.error", 40, "", 1, "Error handling %s %s", ("GET", f"/x/{JOB}?a"), None
    )

    assert logging.getLogger("gunicorn.error").filter(record)

    assert record.getMessage() == "Error handling GET /x/...?a"


@pytest.mark.parametrize("text", ["/embed/text", "/v1/models/ViT-B-32/laion400m_e32", "/a b/c-d-e-f/facade"])
def test_other_paths_are_logged_whole(text: str) -> None:
    assert mask_ids(text) == text


@pytest.mark.parametrize(
    ("level", "printed"),
    [("DEBUG", ["DEBUG", "INFO", "INFO", "WARNING"]), ("warning", ["WARNING"])],
)
def test_log_level(log: Path, level: str, printed: list[str]) -> None:
    with serving("gateway", log, MODEL="demo", LOG_LEVEL=level) as server:
        started = len(log.read_text().splitlines())
        server.get("/health")
        server.post("/embed/text", json={"texts": ["a"]})
        server.post("/embed/text", json={"texts": [5]})

    assert [line.split()[1] for line in log.read_text().splitlines()[started:]] == printed
