"""The document: valid, complete, and kept to by the server whatever it is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.albums import Album, new_album
from tests.support.pictures import FORMATS, data_uri, in_base64, picture, web
from tests.support.serving import KEY, Server, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 16
# Of which a body has one.
EITHER = {"urls", "images", "image_url", "image_b64"}

# Clients are generated from these names, which are the original's.
TASK_OPERATIONS = (
    "new_job_api_tasks_{}__model__jobs_post",
    "get_job_results_api_tasks_{}_jobs__job__get",
    "new_batched_job_api_tasks_{}_batched__model__jobs_post",
    "get_batched_job_results_api_tasks_{}_batched_jobs__job__get",
    "new_job_results_api_legacy_tasks_{}__model__jobs_post",
)
OPERATIONS = {
    *(name.format(task) for name in TASK_OPERATIONS for task in ("image_embedding", "text_embedding")),
    "list_all_tasks_api_tasks_get",
    "list_all_models_for_task_api_tasks__task__models_get",
    "list_all_models_api_models_get",
    "list_all_tasks_for_model_api_models__model__tasks_get",
    "start_model_api_models__model__start_post",
    "stop_model_api_models__model__stop_post",
    "get_model_status_api_models__model__status_get",
}
SCHEMAS = {"JobStatus", "JobState", "ModelState", "ModelStatus"} | {
    name.format(kind)
    for kind in ("Image", "Text")
    for name in (
        "{}EmbeddingOutput",
        "{}EmbeddingInput",
        "Batched{}EmbeddingInput",
        "JobResponse{}EmbeddingOutput",
        "BatchedJobResponse{}EmbeddingOutput",
    )
}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """A picture that can be found."""
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add({"cat.jpg": picture()})
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with jobs and photos of its own."""
    log, jobs = tmp_path_factory.mktemp("openapi") / "log", tmp_path_factory.mktemp("jobs")
    settings = {**album.settings, "JOBS_URL": jobs.as_uri(), "FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with serving("gateway", log, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return server.get("/openapi.json").json()


def _operations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_it_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_the_job_convention_has_the_originals_names(document: Any) -> None:
    ids = [operation["operationId"] for operation in _operations(document)]

    assert len(ids) == len(set(ids))
    assert {name for name in ids if "_api_" in name} == OPERATIONS
    assert set(document["components"]["schemas"]) >= SCHEMAS


def test_it_has_every_route_and_no_other(server: Server, document: Any) -> None:
    assert sorted(document["paths"]) == server.get("/").json()["routes"]
    for path, operations in document["paths"].items():
        filled = path.replace("{task}", "image-embedding").replace("{model}", "demo").replace("{job}", "x")
        allowed = server.ask("OPTIONS", filled).headers["Allow"].split(", ")
        assert set(allowed) - {"HEAD", "OPTIONS"} == {method.upper() for method in operations}


@pytest.mark.parametrize("target", ["embed_text", "embed_image", "embed_mixed", "jobs", "search"])
def test_each_function_documents_itself(target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(target)
    settings = {"JOBS_URL": (folder / "jobs").as_uri(), "INDEX_URL": f"sqlite://{folder}/index.sqlite"}
    with serving(target, folder / "log", **settings) as server:
        document = server.get("/openapi.json").json()
        routes = server.get("/").json()["routes"]

    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert sorted(document["paths"]) == routes
    ids = [operation["operationId"] for operation in _operations(document)]
    assert len(ids) == len(set(ids))
    assert ("post" in document["paths"]["/"]) == (target != "jobs")


def test_the_page_needs_nothing_from_elsewhere(server: Server, document: Any) -> None:
    reply = server.get("/docs")

    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"<(script|link|img|iframe|form|object)|@import|url\(|\son\w+=", reply.text, re.I)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', reply.text)) == {"/openapi.json"}
    for path in document["paths"]:
        assert path in reply.text


def test_with_a_key_it_is_the_same_and_says_how_to_send_the_key(document: Any, log: Any) -> None:
    with serving("gateway", log, API_KEY=KEY) as closed:
        found = closed.get("/openapi.json", headers={"X-API-Key": KEY}).json()

    assert list(OpenAPIV31SpecValidator(found).iter_errors()) == []
    assert KEY not in str(found)
    schemes = found["components"].pop("securitySchemes")
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["key"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    for operation in _operations(found):
        if operation["operationId"] == "health":
            assert "security" not in operation
        else:
            assert operation.pop("security") == [{"bearer": []}, {"key": []}]
            assert "401" in operation["responses"]
            del operation["responses"]["401"]
    assert found == document


def _references(site: str) -> st.SearchStrategy[str]:
    """What may stand for a picture: real ones in every form, and what only looks like one."""
    whole = [picture(kind=kind) for kind in FORMATS]
    damaged = st.builds(lambda data, end: data[:end], st.sampled_from(whole), st.integers(1, 500))
    files = st.one_of(st.sampled_from(whole), damaged, st.binary(max_size=50))
    urls = [f"{site}/cat", f"{site}/none", f"{site}/text", "gs://bucket/cat", "http://169.254.169.254/", "x:"]
    real = st.sampled_from([data_uri(data) for data in whole])
    return st.one_of(
        real,
        st.builds(in_base64, files),
        st.builds(data_uri, files),
        st.sampled_from(urls),
        st.text(max_size=20),
    )


def _with_pictures(references: st.SearchStrategy[str]) -> Any:
    """Often puts such references where a body has its pictures, in one field where it may have several."""

    def replaced(context: Any, body: Any) -> st.SearchStrategy[Any]:
        if not isinstance(body, dict):
            return st.just(body)
        kinds = {key: st.just(value) for key, value in body.items()}
        for key, value in body.items():
            if key == "model":
                kinds[key] = st.just("demo") | kinds[key]
            elif key in ("urls", "images") or (key == "image" and isinstance(value, list)):
                kinds[key] = st.lists(references, min_size=1, max_size=3) | kinds[key]
            elif key in ("image_url", "image_b64", "imageUrl", "image"):
                kinds[key] = references if isinstance(value, str) else references | kinds[key]
        either = {key: kinds.pop(key) for key in EITHER & set(kinds)}
        return st.fixed_dictionaries(kinds, optional=either)

    return replaced


def test_the_server_keeps_to_it(server: Server, document: Any, album: Album) -> None:
    jobs = [
        server.post(f"/api/tasks/text-embedding/{path}", json={"text": text}).json()["id"]
        for path, text in (("demo/jobs", "a"), ("batched/demo/jobs", ["a", "b"]))
    ]
    known = {
        "uri": [album.uri("cat.jpg")],
        "model": ["demo"],
        "task": ["image-embedding", "text-embedding"],
        "job": jobs,
    }

    def arguments(context: Any, found: Any) -> st.SearchStrategy[Any]:
        choices = {key: _one_of(known.get(key, ()), value) for key, value in (found or {}).items()}
        return st.fixed_dictionaries(choices) if found else st.just(found)

    binary = st.binary(max_size=200) | st.sampled_from([picture(kind=kind) for kind in FORMATS])
    schemathesis.openapi.format("binary", binary)
    schemathesis.openapi.media_type("image/*", binary)
    seen: dict[str, set[int]] = {}
    with web({"/cat": picture(), "/text": b"hello"}) as site, requests.Session() as session:
        session.trust_env = False
        schema = schemathesis.openapi.from_dict(document)
        schema.hook("flatmap_body")(_with_pictures(_references(site)))
        schema.hook("flatmap_path_parameters")(arguments)
        schema.hook("flatmap_query")(arguments)

        def call(case: schemathesis.Case) -> Any:
            return case.call(server.url, session)

        for found in schema.get_all_operations():
            operation = found.ok()
            statuses = seen.setdefault(operation.label, set())
            if operation.body:
                _try(operation, GenerationMode.NEGATIVE, call, statuses)
            # Until the examples have reached the work itself, not only the refusals.
            for number in range(5):
                _try(operation, GenerationMode.POSITIVE, call, statuses, number)
                if 200 in statuses:
                    break

    assert len(seen) == len(_operations(document))
    assert [label for label, statuses in seen.items() if 200 not in statuses] == []
    assert "Traceback" not in server.log.read_text()


def _one_of(known: Sequence[str], value: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(known) | st.just(value) if known else st.just(value)


def _try(
    operation: Any, mode: GenerationMode, call: Callable[..., Any], statuses: set[int], number: int = 0
) -> None:
    @seed(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        response = call(case)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    check()
