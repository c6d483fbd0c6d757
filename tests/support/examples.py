"""The requests of the OpenAPI document's examples, and the replies to them.

    .venv-test/bin/python -m tests.support.examples

writes the file of replies anew, as the demo model answers.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clip_embeddings.http.endpoints import load_protocols
from clip_embeddings.http.reply_examples import FILE, SHOWN
from clip_embeddings.jobs.tasks import TASKS
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, Endpoint
from clip_embeddings.search.schema import SEARCH_EXAMPLE
from tests.support.albums import emoji, new_album
from tests.support.serving import Server, serving
from tests.support.waiting import eventually

IMAGE = base64.b64decode(EXAMPLE_IMAGE.partition(",")[2])


def request_of(endpoint: Endpoint) -> dict[str, Any]:
    """The example of an endpoint as arguments of requests.post."""
    match endpoint.body.kind:
        case "json":
            return {"json": endpoint.example}
        case "form":
            return {"data": endpoint.example}
        case "file":
            return {"files": {endpoint.body.file_fields[0]: IMAGE}}
        case "multipart":
            return {"files": {name: (None, value) for name, value in endpoint.example.items()}}
        case "bytes":
            return {"data": IMAGE, "headers": {"Content-Type": "image/png"}}


def path_of(path: str) -> str:
    """A route's path with the served model for every `{name}`."""
    return re.sub(r"\{\w+(:\w+)?\}", "demo", path)


@contextmanager
def example_server(folder: Path) -> Iterator[Server]:
    """A gateway with a few photos; everything that it keeps is below `folder`."""
    album = new_album(folder)
    album.add(emoji(40))
    with serving("gateway", folder / "log", JOBS_URL=(folder / "jobs").as_uri(), **album.settings) as server:
        yield server


def replies(gateway: Server) -> dict[str, Any]:
    """The reply to every example, by operation id, with its vectors cut."""
    found: dict[str, Any] = {}
    for protocol in load_protocols():
        for lookup in protocol.lookups:
            if lookup.reply_media == "application/json" and lookup.status == 200:
                found[lookup.operation_id] = gateway.get(path_of(lookup.path)).json()
        for endpoint in protocol.endpoints:
            found[endpoint.operation_id] = gateway.post(path_of(endpoint.path), **request_of(endpoint)).json()
    for task in TASKS:
        found |= _job_replies(gateway, task)
    found |= _search_replies(gateway)
    found["health"] = gateway.get("/health").json()
    found["ready"] = gateway.get("/ready").json()
    return {name: cut(reply) for name, reply in found.items()}


def _search_replies(gateway: Server) -> dict[str, Any]:
    found = {
        "search": gateway.post("/search", json=SEARCH_EXAMPLE).json(),
        "search_link": gateway.get("/search?q=birthday+cake&k=1").json(),
        "collection": gateway.get("/collection").json(),
    }
    result = found["search"]["results"][0]
    found["similar"] = gateway.get("/similar", params={"uri": result["uri"], "k": 1}).json()
    # Where the photos are says nothing.
    folder = result["uri"].partition("emoji/")[0]
    text = (
        json.dumps(found)
        .replace(quote(folder, safe=""), quote("file:///", safe=""))
        .replace(folder, "file:///")
    )
    replaced: dict[str, Any] = json.loads(text)
    return replaced


def _job_replies(gateway: Server, task: str) -> dict[str, Any]:
    single, batched = (TASKS[task].example_of(is_batched) for is_batched in (False, True))
    base, name = f"/api/tasks/{task}", task.replace("-", "_")
    found = {
        f"new_job_results_api_legacy_tasks_{name}__model__jobs_post": gateway.post(
            f"/api/legacy/tasks/{task}/demo/jobs", json=single
        ).json()
    }
    for kind, body, folder, part in (
        ("job", single, "", ""),
        ("batched_job", batched, "/batched", "_batched"),
    ):
        submitted = gateway.post(f"{base}{folder}/demo/jobs", json=body).json()
        results = f"{base}{folder}/jobs/{submitted['id']}"
        eventually(lambda path=results: gateway.get(path).json()["status"] == "complete")  # type: ignore[misc]
        found[f"new_{kind}_api_tasks_{name}{part}__model__jobs_post"] = submitted
        found[f"get_{kind}_results_api_tasks_{name}{part}_jobs__job__get"] = gateway.get(results).json()
    return found


def cut(value: Any) -> Any:
    """The reply with the first numbers of each vector, of one written as text, too."""
    if isinstance(value, str) and value.startswith("["):
        return json.dumps(cut(json.loads(value)), separators=(",", ":"))
    if isinstance(value, list):
        is_vector = len(value) > SHOWN and all(isinstance(number, float) for number in value)
        return value[:SHOWN] if is_vector else [cut(item) for item in value]
    if isinstance(value, dict):
        return {key: cut(item) for key, item in value.items()}
    return value


def write(found: Mapping[str, Any]) -> None:
    """Write the file: an operation a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(reply)}" for name, reply in sorted(found.items()))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, example_server(Path(temporary)) as running:
        write(replies(running))
