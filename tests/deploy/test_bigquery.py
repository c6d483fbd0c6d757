"""deploy.sh bigquery: SQL that parses, the real bq and gcloud beside a local server, what is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from tests.support.bigquery_api import CONNECTION_ACCOUNT, environment, needs_bq
from tests.support.cloud_projects import enable, logged_in
from tests.support.deploy_script import deploy_sh, flag, needs_gcloud, paste_and_read, recorded, recorder
from tests.support.documents import blocks
from tests.support.gcloud_parser import refused_calls
from tests.support.google_apis import NUMBER, PROJECT, GoogleApis, playing
from tests.support.recorded_commands import record

BUCKET = "my.photos"
OPTIONS = (f"--photos-bucket={BUCKET}",)
MEMBER = f"serviceAccount:{CONNECTION_ACCOUNT}"


@pytest.fixture
def apis() -> Iterator[GoogleApis]:
    with playing() as running:
        yield running


def plan(folder: Path, *arguments: str) -> str:
    """What a dry run prints."""
    printed = deploy_sh("--dry-run", *OPTIONS, *arguments, "bigquery", folder=folder)
    assert printed.returncode == 0, printed.stderr
    return printed.stdout


def script(folder: Path) -> str:
    """The SQL of the only query that a pasted plan runs."""
    (query,) = [call for call in recorded(folder, "record.bq") if "query" in call]
    return query[-1]


# Statements that sqlglot knows only without these parts.
NOT_KNOWN = {
    "CREATE OR REPLACE EXTERNAL TABLE": (r"\nWITH CONNECTION `[^`]+`", ""),
    "CREATE VECTOR INDEX": (r"CREATE VECTOR(.*)\nSTORING \([^)]*\)\nOPTIONS \([^)]*\)", r"CREATE\1"),
}


def parsed(sql: str) -> list[exp.Expr]:
    """The statements of BigQuery's SQL. Fails for one that is not understood."""
    statements = []
    for text in filter(None, map(str.strip, re.split(r";\s*\n", sql))):
        text = re.sub(r"^(--.*\n)+", "", text)
        for start, (pattern, replacement) in NOT_KNOWN.items():
            if text.startswith(start):
                text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
                assert count == 1, text
        (statement,) = sqlglot.parse(text, dialect="bigquery")
        assert statement is not None
        # What sqlglot does not understand, it keeps as a command.
        assert not isinstance(statement, exp.Command), text
        statements.append(statement)
    return statements


def test_the_printed_sql_parses(tmp_path: Path) -> None:
    printed = paste_and_read(plan(tmp_path), tmp_path)

    kinds = [(type(statement).__name__, statement.args.get("kind")) for statement in parsed(script(tmp_path))]
    assert kinds == [
        ("Create", "SCHEMA"),
        *[("Create", "FUNCTION")] * 3,
        *[("Create", "TABLE")] * 2,
    ]
    embed, forget, missing, index, search = parsed(printed)
    assert isinstance(embed, exp.Insert)
    assert isinstance(forget, exp.Delete)
    assert isinstance(missing, exp.Select)
    assert (type(index), index.args["kind"]) == (exp.Create, "INDEX")
    assert isinstance(search, exp.Select)


def test_everything_is_in_the_project_the_data_set_and_the_location(tmp_path: Path) -> None:
    options = ("--project=other-project", "--dataset=album", "--dataset-location=EU", "--region=europe-west1")
    printed = paste_and_read(plan(tmp_path, *options), tmp_path)

    sql = script(tmp_path)
    named = set(re.findall(r"`([^`]+)`", sql + printed))
    assert named == {
        "other-project.album",
        "other-project.eu.clip",
        *(f"other-project.album.{name}" for name in ("embed_text", "embed_image", "to_vector")),
        *(f"other-project.album.{name}" for name in ("photos", "photo_vectors")),
    }
    assert 'OPTIONS (location = "eu")' in sql
    assert f'uris = ["gs://{BUCKET}/*"]' in sql
    for call in recorded(tmp_path, "record.bq"):
        assert call[:2] == ["--project_id=other-project", "--location=eu"]
    regions = {flag(call, "region") for call in recorded(tmp_path) if call[0] == "run"}
    assert regions == {"europe-west1"}


def test_a_pasted_plan_makes_the_connection_once_and_grants_its_roles(tmp_path: Path) -> None:
    text = plan(tmp_path)
    for _ in range(2):
        paste_and_read(text, tmp_path)

    made = [call for call in recorded(tmp_path, "record.bq") if "mk" in call]
    assert len(made) == 1
    grants = [call for call in recorded(tmp_path) if "add-iam-policy-binding" in call]
    given = {(call[3], flag(call, "role"), flag(call, "member").partition(":")[2]) for call in grants}
    assert given == {
        ("embed-text", "roles/run.invoker", "bqcx-1-a@gcp-sa-bigquery.example"),
        ("embed-image", "roles/run.invoker", "bqcx-1-a@gcp-sa-bigquery.example"),
        (f"gs://{BUCKET}", "roles/storage.objectViewer", "bqcx-1-a@gcp-sa-bigquery.example"),
        (
            f"gs://{BUCKET}",
            "roles/storage.objectViewer",
            "clip-functions@my-project.iam.gserviceaccount.com",
        ),
    }


def test_one_function_may_embed_both(tmp_path: Path) -> None:
    printed = deploy_sh("--dry-run", *OPTIONS, "bigquery", "gateway", folder=tmp_path)
    paste_and_read(printed.stdout, tmp_path)

    sql = script(tmp_path)
    assert sql.count('endpoint = "https://function.example/bigquery"') == 2
    assert {call[3] for call in recorded(tmp_path) if call[:2] == ["run", "services"]} == {"gateway"}


@needs_gcloud
def test_gcloud_takes_every_command(tmp_path: Path) -> None:
    paste_and_read(plan(tmp_path, "--project=other-project"), tmp_path)

    calls = recorded(tmp_path)
    assert len(calls) > 10
    assert refused_calls(calls, tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--api-key-secret=key", "bigquery"), "can only send an identity token, and no API key"),
        (("bigquery", "search"), "BigQuery cannot call search: name some of embed_text,"),
        (("bigquery", "embed_text"), "has a tower for the mode image: name embed_image as well."),
        (("--dataset=a-b", "bigquery"), "DATASET=a-b is not valid: use a data set's name"),
        (("--dataset-location=us east", "bigquery"), "DATASET_LOCATION='us east' is not valid"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_cannot_work_ends_with_one_sentence(
    dry: tuple[str, ...], arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    tools = recorder(tmp_path)
    ended = deploy_sh(*dry, *arguments, folder=tmp_path, **tools)  # type: ignore[arg-type]

    assert (ended.returncode, ended.stdout) == (1, "")
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert {call[0] for call in recorded(tmp_path)} <= {"auth", "config"}


def test_without_bq_it_says_so(tmp_path: Path) -> None:
    tools = recorder(tmp_path)
    (tmp_path / "bin" / "bq").unlink()

    ended = deploy_sh("bigquery", folder=tmp_path, **tools)  # type: ignore[arg-type]

    assert ended.returncode == 1
    assert ended.stderr == "deploy.sh: bq is not installed: run gcloud components install bq.\n"


def deployed(name: str, model: str = "demo", **variables: str) -> Any:
    """A service as Cloud Run shows it."""
    env = [{"name": key, "value": value} for key, value in {"MODEL": model, **variables}.items()]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NUMBER, "labels": {"app": "clip-functions"}},
        "spec": {"template": {"spec": {"containers": [{"env": env}]}}},
        "status": {"url": f"https://{name}.run.test", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def deploy(apis: GoogleApis, folder: Path) -> subprocess.CompletedProcess[str]:
    """deploy.sh bigquery with the real gcloud and bq."""
    tools = {**logged_in(apis, folder), **environment(apis, folder)}
    options = (f"--project={PROJECT}", *OPTIONS)
    return deploy_sh(*options, "bigquery", folder=folder, **tools)  # type: ignore[arg-type]


@pytest.fixture
def ready(apis: GoogleApis) -> GoogleApis:
    """A project with everything that the command needs."""
    enable(apis, "bigquery", "bigqueryconnection")
    apis.buckets[BUCKET] = {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "location": "US-CENTRAL1"}
    apis.services["embed-text"] = deployed("embed-text")
    apis.services["embed-image"] = deployed("embed-image", ALLOWED_BUCKETS=f"others,{BUCKET}")
    return apis


@needs_bq
def test_bq_makes_the_connection_and_runs_the_script(apis: GoogleApis, tmp_path: Path) -> None:
    paste_and_read(plan(tmp_path, f"--project={PROJECT}"), tmp_path)
    env = {**logged_in(apis, tmp_path), **environment(apis, tmp_path)}
    ended = [
        subprocess.run(["bq", *call], env=env, capture_output=True, text=True, timeout=60)
        for call in recorded(tmp_path, "record.bq")
        if "show" not in call
    ]

    assert [process.returncode for process in ended] == [0, 0], ended
    assert apis.connections.keys() == {"us-central1/clip"}
    assert apis.scripts == [script(tmp_path)]
    assert {request.token for request in apis.requests} == {"a-token"}


def test_the_pages_queries_are_those_that_are_printed(tmp_path: Path) -> None:
    printed = paste_and_read(plan(tmp_path), tmp_path)
    shown = [block.text for block in blocks("docs/bigquery.md") if block.language == "sql"]

    assert [text in printed for text in shown] == [True, True, True, True, False]
    assert len([statement for text in shown for statement in parsed(text)]) == 5


@needs_bq
@pytest.mark.full
def test_bq_takes_the_pages_commands(apis: GoogleApis, tmp_path: Path) -> None:
    env = {**logged_in(apis, tmp_path), **environment(apis, tmp_path)}
    commands = [block.text for block in blocks("docs/bigquery.md") if "bq rm" in block.text]
    for call in record(commands[0], tmp_path / "recorded"):
        ended = subprocess.run(call, env=env, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stdout

    removed = [request.path for request in apis.requests if request.method == "DELETE"]
    assert [path.partition("/projects/")[2] for path in removed] == [
        "MY-PROJECT/datasets/clip",
        "MY-PROJECT/locations/us-central1/connections/clip",
    ]


@needs_bq
@needs_gcloud
@pytest.mark.full
def test_it_may_be_repeated(ready: GoogleApis, tmp_path: Path) -> None:
    first = deploy(ready, tmp_path)
    policies = {name: policy["bindings"] for name, policy in ready.policies.items()}
    second = deploy(ready, tmp_path)

    for ended in (first, second):
        assert ended.returncode == 0, ended.stderr
        assert len(parsed(ended.stdout[ended.stdout.index("-- Embed") :])) == 5
    assert "mk --connection" in first.stderr
    assert "mk --connection" not in second.stderr
    assert ready.scripts[0] == ready.scripts[1]
    assert 'endpoint = "https://embed-text.run.test/bigquery"' in ready.scripts[0]
    assert {name: policy["bindings"] for name, policy in ready.policies.items()} == policies
    functions = f"serviceAccount:clip-functions@{PROJECT}.iam.gserviceaccount.com"
    (bucket,) = policies[f"b/{BUCKET}"]
    assert (bucket["role"], {*bucket["members"]}) == ("roles/storage.objectViewer", {MEMBER, functions})
    services = [policy for name, policy in policies.items() if "/services/" in name]
    assert services == [[{"role": "roles/run.invoker", "members": [MEMBER]}]] * 2


@needs_gcloud
@pytest.mark.full
@pytest.mark.parametrize(
    ("services", "sentence"),
    [
        (
            {},
            f"not deployed: run ./deploy.sh --allowed-buckets {BUCKET} deploy embed_text embed_image.",
        ),
        (
            {"embed-text": {"API_KEY": "x"}, "embed-image": {"ALLOWED_BUCKETS": BUCKET}},
            "no API key: deploy embed_text without --api-key-secret.",
        ),
        (
            {"embed-text": {}, "embed-image": {"ALLOWED_BUCKETS": "my-photos,other"}},
            f"embed_image may not read gs://{BUCKET}: run ./deploy.sh --allowed-buckets {BUCKET} deploy",
        ),
        (
            {"embed-text": {"model": "other"}, "embed-image": {"ALLOWED_BUCKETS": BUCKET}},
            "embed_text and embed_image have different models",
        ),
    ],
)
def test_functions_that_would_not_do_are_noticed_before_anything_is_made(
    services: dict[str, dict[str, str]], sentence: str, ready: GoogleApis, tmp_path: Path
) -> None:
    ready.services = {name: deployed(name, **settings) for name, settings in services.items()}

    ended = deploy(ready, tmp_path)

    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert {request.method for request in ready.requests} == {"GET"}
