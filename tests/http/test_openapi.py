"""The document: valid, complete, and kept to by the server whatever it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from clip_embeddings.config import Settings
from clip_embeddings.http import provenance
from clip_embeddings.http.endpoints import load_protocols, protocol_routes
from clip_embeddings.http.openapi import document as make_document
from clip_embeddings.http.routing import Route
from clip_embeddings.protocols.base import NATIVE_ERRORS, PLAIN_ERRORS, Lookup, Protocol, json_body
from clip_embeddings.runtime import make_runtime
from tests.support.albums import Album, new_album
from tests.support.pictures import FORMATS, data_uri, in_base64, picture, web
from tests.support.serving import KEY, Server, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# What Immich asks for, which no random text is.
ENTRIES = [json.dumps({"clip": {kind: {"modelName": "demo"}}}) for kind in ("visual", "textual")]
PUBLIC = ("health", "ready", "immich_ping", "weaviate_live", "weaviate_ready")
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
OPERATION_TASKS = ("image_embedding", "text_embedding", "zero_shot_image_classification")
OPERATIONS = {
    *(name.format(task) for name in TASK_OPERATIONS for task in OPERATION_TASKS),
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
    for kind in ("ImageEmbedding", "TextEmbedding", "ZeroShotImageClassification")
    for name in (
        "{}Output",
        "{}Input",
        "Batched{}Input",
        "JobResponse{}Output",
        "BatchedJobResponse{}Output",
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
    settings["SERVE_ORIGINALS"] = "true"
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
        filled = re.sub(r"\{\w+\}", "demo", path.replace("{task}", "image-embedding"))
        allowed = set(server.ask("OPTIONS", filled).headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"}
        methods = {method.upper() for method in operations}
        # GET /v1/models/{id} matches /v1/models/x:embedContent too, because a name may hold a colon.
        assert methods <= allowed if ":" in path else methods == allowed


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
        if operation["operationId"] in PUBLIC:
            assert "security" not in operation
        else:
            assert operation.pop("security") == [{"bearer": []}, {"key": []}]
            assert "401" in operation["responses"]
            del operation["responses"]["401"]
    assert found == document


def test_the_page_shows_operations_by_tag(server: Server, document: Any) -> None:
    groups = re.split("<h2>", server.get("/docs").text)[1:]
    shown = {group.partition("</h2>")[0]: group for group in groups}

    tags = [tag["name"] for tag in document["tags"]]
    assert list(shown) == [*tags, "Schemas"]
    assert {tag for operation in _operations(document) for tag in operation["tags"]} == set(tags)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for tag in operation["tags"]:
                assert f"<code>{path}</code>" in shown[tag]


def test_routes_that_share_a_path_are_one_operation(document: Any) -> None:
    operation = document["paths"]["/search"]["post"]
    content = operation["requestBody"]["content"]["application/json"]

    assert operation["operationId"] == "search"
    assert set(operation["tags"]) == {"search", "photo app"}
    assert _choices(content["schema"]) == {"SearchBody", "PhotoAppPromptBody"}
    for status, replies in (
        ("200", {"SearchReply", "UploadReply"}),
        ("400", {"ErrorReply", "PlainErrorReply"}),
    ):
        reply = operation["responses"][status]["content"]["application/json"]
        assert _choices(reply["schema"]) == replies
    mixed = document["paths"]["/embed/text"]["post"]["requestBody"]["content"]
    assert mixed["application/json"]["example"] == {"texts": ["birthday cake", "fire engine"]}
    assert mixed["application/x-www-form-urlencoded"]["example"] == {"text": "birthday cake"}


def _choices(schema: Any) -> set[str]:
    return {choice["$ref"].rpartition("/")[2] for choice in schema["anyOf"]}


def test_every_example_and_every_header_is_documented(document: Any) -> None:
    described = document["components"]["headers"]
    for protocol in load_protocols():
        for endpoint in protocol.endpoints:
            operation = document["paths"][re.sub(r":\w+\}", "}", endpoint.path)]["post"]
            assert set(operation["responses"]["200"]["headers"]) == set(provenance.HEADERS) <= set(described)
            for media in set(endpoint.body.media) - {""} if isinstance(endpoint.example, dict) else ():
                content = operation["requestBody"]["content"][media]
                examples = [example["value"] for example in content.get("examples", {}).values()]
                assert endpoint.example in [content.get("example"), *examples]
    for operation in _operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("4"):
                assert set(response["headers"]) == {"Embedding-Error-Code"} <= set(described)


class First(msgspec.Struct):
    """A body."""

    a: int


class Second(msgspec.Struct):
    """Another body."""

    b: int


def test_only_vectors_are_normalized(document: Any) -> None:
    def options(path: str) -> list[str]:
        return [parameter["name"] for parameter in document["paths"][path]["post"]["parameters"]]

    assert options("/embed/text") == ["model", "normalize"]
    assert options("/classify") == ["model"]


def test_routes_of_every_kind_have_a_document() -> None:
    def post(name: str, body: Any, **options: Any) -> Route:
        return Route("POST", "/", name, name, lambda context: None, body, body=json_body(body), **options)

    ping = Lookup("ping", "Alive", "/things/{id:path}", None, lambda runtime, path: None, ("x",), status=204)
    first = post("first", First, example={"a": 1}, error_statuses=(400,), tag="one")
    second = post("second", Second, example={"b": 1}, error_statuses=(400, 409), errors=PLAIN_ERRORS)
    routes = [*protocol_routes("gateway", [Protocol("x", (), (ping,))], None, Settings()), first, second]

    made = make_document(routes, make_runtime("gateway", (), Settings()))

    assert list(OpenAPIV31SpecValidator(made).iter_errors()) == []
    lookup = made["paths"]["/things/{id}"]["get"]
    assert "content" not in lookup["responses"]["204"]
    assert [parameter["name"] for parameter in lookup["parameters"]] == ["id"]
    operation = made["paths"]["/"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["examples"] == {"second": {"value": {"b": 1}}, "first": {"value": {"a": 1}}}
    assert "409" in operation["responses"]
    assert NATIVE_ERRORS.schema(400) is not PLAIN_ERRORS.schema(400)
    assert len(operation["responses"]["400"]["content"]["application/json"]["schema"]["anyOf"]) == 2


def test_structs_of_one_name_are_called_by_protocol(document: Any) -> None:
    names = set(document["components"]["schemas"])

    assert {"VectorReply", "EncoderVectorReply"} <= names
    assert all(re.fullmatch(r"\w+", name) for name in names)
    titles = [schema["title"] for schema in document["components"]["schemas"].values()]
    assert sorted(titles) == sorted(names)


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
            elif key == "entries":
                kinds[key] = st.sampled_from(ENTRIES) | kinds[key]
            elif key in ("urls", "images") or (key == "image" and isinstance(value, list)):
                kinds[key] = st.lists(references, min_size=1, max_size=3) | kinds[key]
            elif key in ("image_url", "image_b64", "imageUrl", "image"):
                kinds[key] = references if isinstance(value, str) else references | kinds[key]
        either = {key: kinds.pop(key) for key in EITHER & set(kinds)}
        return st.fixed_dictionaries(kinds, optional=either)

    return replaced


@pytest.mark.parametrize("examples", [6, pytest.param(48, marks=pytest.mark.full)])
def test_the_server_keeps_to_it(server: Server, document: Any, album: Album, examples: int) -> None:
    image, classes = data_uri(picture()), ["a", "b"]
    submitted = {
        "text-embedding/demo/jobs": {"text": "a"},
        "text-embedding/batched/demo/jobs": {"text": ["a", "b"]},
        "zero-shot-image-classification/demo/jobs": {"image": image, "classes": classes},
        "zero-shot-image-classification/batched/demo/jobs": {"image": [image], "classes": classes},
    }
    jobs = [server.post(f"/api/tasks/{path}", json=body).json()["id"] for path, body in submitted.items()]
    known = {
        "uri": [album.uri("cat.jpg")],
        "model": ["demo"],
        "id": ["demo"],
        "task": ["image-embedding", "text-embedding", "zero-shot-image-classification"],
        "job": jobs,
        "q": ["a cat"],
        "after": ["2024-05-17"],
        "before": ["2100-01-01T00:00:00Z"],
    }

    def arguments(context: Any, found: Any) -> st.SearchStrategy[Any]:
        choices = {key: _one_of(known.get(key, ()), value) for key, value in (found or {}).items()}
        return st.fixed_dictionaries(choices) if found else st.just(found)

    binary = st.binary(max_size=200) | st.sampled_from([picture(kind=kind) for kind in FORMATS])
    schemathesis.openapi.format("binary", binary)
    schemathesis.openapi.media_type("image/*", binary)
    seen: dict[str, set[int]] = {}
    count = 0
    with web({"/cat": picture(), "/text": b"hello"}) as site, requests.Session() as session:
        session.trust_env = False
        schema = schemathesis.openapi.from_dict(document)
        schema.hook("flatmap_body")(_with_pictures(_references(site)))
        schema.hook("flatmap_path_parameters")(arguments)
        schema.hook("flatmap_query")(arguments)

        def call(case: schemathesis.Case[Any]) -> Any:
            nonlocal count
            count += 1
            return case.call(server.url, session)

        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            statuses = seen.setdefault(operation.label, set())
            if operation.body:
                _try(operation, GenerationMode.NEGATIVE, call, statuses, examples)
            # Until the examples have reached the work itself, not only the refusals.
            for number in range(30):
                _try(operation, GenerationMode.POSITIVE, call, statuses, examples, number)
                if not statuses.isdisjoint((200, 204)):
                    break

    print(f"{count} requests to {len(seen)} operations")
    assert len(seen) == len(_operations(document))
    assert [label for label, statuses in seen.items() if statuses.isdisjoint((200, 204))] == []
    assert "Traceback" not in server.log.read_text()


def _one_of(known: Sequence[str], value: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(known) | st.just(value) if known else st.just(value)


def _try(
    operation: Any,
    mode: GenerationMode,
    call: Callable[..., Any],
    statuses: set[int],
    examples: int,
    number: int = 0,
) -> None:
    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        response = call(case)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    check()
