"""deploy.sh with the real gcloud, against a local server that plays Google's APIs."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud_projects import deploy_to, enable, logged_in
from tests.support.deploy_script import deploy_sh, flag, gcloud_environment, needs_gcloud, paste
from tests.support.google_apis import AGENT, NUMBER, PROJECT, GoogleApis, playing

pytestmark = needs_gcloud

FUNCTIONS_ACCOUNT = f"serviceAccount:clip-functions@{PROJECT}.iam.gserviceaccount.com"
LIST_INDEXES = ["firestore", "indexes", "composite", "list"]
EVENTS_ACCOUNT = f"serviceAccount:clip-events@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture
def apis() -> Iterator[GoogleApis]:
    with playing() as running:
        yield running


def deployed(name: str, **labels: str) -> Any:
    """A service as Cloud Run shows it."""
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NUMBER, "labels": {"app": "clip-functions", **labels}},
        "status": {"url": f"https://{name}.run.test", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_status_tells_what_is_deployed(apis: GoogleApis, tmp_path: Path) -> None:
    apis.services["embed-text"] = deployed("embed-text", deployed="0123-45")
    apis.services["other"] = {
        **deployed("other"),
        "metadata": {"name": "other", "labels": {"app": "another"}},
    }
    apis.triggers["eu/run-job"] = {
        "name": f"projects/{PROJECT}/locations/eu/triggers/run-job",
        "destination": {"cloudRun": {"service": "run-job", "region": "us-central1"}},
        "eventFilters": [{"attribute": "bucket", "value": "the-jobs"}],
    }

    ended = deploy_to(apis, tmp_path, "status")

    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["embed-text", "True", "https://embed-text.run.test", "0123-45"] in lines
    assert ["run-job", "eu", "run-job", "the-jobs"] in lines
    assert "other" not in ended.stdout
    assert {request.token for request in apis.requests} == {"a-token"}


def test_grants_and_triggers_are_what_google_is_sent(apis: GoogleApis, tmp_path: Path) -> None:
    printed = deploy_sh("--dry-run", f"--project={PROJECT}", "deploy", "run_job", folder=tmp_path)
    calls = paste(printed.stdout, tmp_path)
    (grant,) = [call for call in calls if call[0] == "projects" and flag(call, "role").endswith("publisher")]
    (invoker,) = [call for call in calls if call[:3] == ["run", "services", "add-iam-policy-binding"]]
    (trigger,) = [call for call in calls if call[:3] == ["eventarc", "triggers", "create"]]

    for call in (grant, invoker, trigger):
        subprocess.run(
            ["gcloud", *call], env=logged_in(apis, tmp_path), check=True, capture_output=True, timeout=60
        )

    (project,) = apis.sent("POST", rf"/v1/projects/{PROJECT}:setIamPolicy")
    member = "serviceAccount:service@example.iam.gserviceaccount.com"
    assert project["policy"]["bindings"] == [{"role": "roles/pubsub.publisher", "members": [member]}]
    (service,) = apis.sent("POST", r".*/services/run-job:setIamPolicy")
    assert service["policy"]["bindings"] == [{"role": "roles/run.invoker", "members": [EVENTS_ACCOUNT]}]
    (made,) = apis.sent("POST", rf"/v1/projects/{PROJECT}/locations/europe-west4/triggers")
    assert made["destination"] == {"cloudRun": {"service": "run-job", "region": "us-central1"}}
    assert made["serviceAccount"] == EVENTS_ACCOUNT.removeprefix("serviceAccount:")
    assert {item["attribute"]: item["value"] for item in made["eventFilters"]} == {
        "type": "google.cloud.storage.object.v1.finalized",
        "bucket": f"{PROJECT}-clip-jobs",
    }


@pytest.mark.full
def test_a_function_is_deployed_and_a_second_time_announced_as_unchanged(
    apis: GoogleApis, tmp_path: Path
) -> None:
    enable(apis, "eventarc", "pubsub")

    first = deploy_to(apis, tmp_path, "deploy", "run_job")
    second = deploy_to(apis, tmp_path, "deploy", "run_job")

    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    # The upload is the staged folder, nothing more and nothing less.
    assert unpacked(apis.uploads[0]) == staged(tmp_path / "build" / "run_job")
    (build,) = apis.sent("POST", r"/v2/.*/builds:submit")
    assert build["buildpackBuild"]["functionTarget"] == "run_job"
    assert build["buildpackBuild"]["baseImage"] == "python313"
    (service,) = apis.sent("POST", r"/apis/serving.knative.dev/.*/services")
    spec = service["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["serviceAccountName"] == FUNCTIONS_ACCOUNT.removeprefix("serviceAccount:")
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    assert {item["name"]: item["value"] for item in container["env"]} == {
        "MODEL": "demo",
        "MEMORY_LIMIT": "1Gi",
        "JOBS_URL": f"gs://{PROJECT}-clip-jobs/jobs",
    }
    assert apis.buckets[f"{PROJECT}-clip-jobs"]["lifecycle"]["rule"] == [
        {"action": {"type": "Delete"}, "condition": {"age": 2, "matchesPrefix": ["jobs/"]}}
    ]
    assert apis.buckets[f"{PROJECT}-clip-jobs"]["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    # Nobody else grants these; nothing more is granted, and nothing twice.
    assert granted(apis, f"projects/{PROJECT}") == [
        ("roles/eventarc.eventReceiver", [EVENTS_ACCOUNT]),
        ("roles/pubsub.publisher", [f"serviceAccount:{AGENT}"]),
        ("roles/run.builder", [f"serviceAccount:clip-builds@{PROJECT}.iam.gserviceaccount.com"]),
    ]
    assert granted(apis, f"b/{PROJECT}-clip-jobs") == [("roles/storage.objectUser", [FUNCTIONS_ACCOUNT])]
    assert "run_job is unchanged since it was last deployed" in second.stderr
    assert len(apis.uploads) == 1
    assert len(apis.sent("POST", r".*/triggers")) == 1
    assert len(apis.sent("POST", r"/storage/v1/b")) == 2  # The jobs, and gcloud's own for sources.


@pytest.mark.full
def test_a_trigger_for_another_bucket_is_not_taken_for_this_one(apis: GoogleApis, tmp_path: Path) -> None:
    enable(apis, "eventarc", "pubsub")
    apis.triggers["us-central1/run-job"] = {
        "name": f"projects/{PROJECT}/locations/us-central1/triggers/run-job",
        "eventFilters": [{"attribute": "bucket", "value": "yesterdays-jobs"}],
    }

    ended = deploy_to(apis, tmp_path, "deploy", "run_job")

    assert ended.returncode == 1
    assert "the trigger run-job watches another bucket" in ended.stderr


@pytest.mark.full
def test_rules_of_others_are_not_replaced(apis: GoogleApis, tmp_path: Path) -> None:
    enable(apis)
    rule = {"action": {"type": "Delete"}, "condition": {"age": 365}}
    name = f"{PROJECT}-clip-jobs"
    apis.buckets[name] = {
        "kind": "storage#bucket",
        "name": name,
        "location": "EU",
        "lifecycle": {"rule": [rule]},
    }

    ended = deploy_to(apis, tmp_path, "deploy", "jobs")

    assert ended.returncode == 1
    assert "has lifecycle rules of its own" in ended.stderr
    assert apis.buckets[name]["lifecycle"] == {"rule": [rule]}
    assert apis.uploads == []


def vector_index(name: str, *fields: str, collection: str = "photos", dimensions: int = 512) -> Any:
    """An index as Firestore lists it."""
    return {
        "name": f"projects/{PROJECT}/databases/(default)/collectionGroups/{collection}/indexes/{name}",
        "fields": [
            *({"fieldPath": field, "order": "ASCENDING"} for field in (*fields, "__name__")),
            {"fieldPath": "vector", "vectorConfig": {"dimension": dimensions, "flat": {}}},
        ],
    }


@pytest.mark.full
def test_an_index_that_is_there_is_recognized(apis: GoogleApis, tmp_path: Path) -> None:
    apis.indexes = [
        vector_index("by-space", "space"),
        vector_index("by-name", "space", "name"),
        vector_index("of-another-model", "space", dimensions=768),
        vector_index("longer", "space", dimensions=5120),
        vector_index("of-others", "space", collection="holidays"),
    ]
    printed = deploy_sh("--dry-run", f"--project={PROJECT}", "deploy", "search", folder=tmp_path)
    checks = [call for call in paste(printed.stdout, tmp_path) if call[:4] == LIST_INDEXES]

    existing = [
        subprocess.run(
            ["gcloud", *call], env=logged_in(apis, tmp_path), check=True, capture_output=True, text=True
        ).stdout
        for call in checks
    ]

    assert [line.strip().rpartition("/")[2] for line in existing] == ["by-space", "by-name"]


def test_what_is_missing_is_told_before_anything_is_changed(apis: GoogleApis, tmp_path: Path) -> None:
    apis.enabled = {"run.googleapis.com", "storage.googleapis.com"}

    ended = deploy_to(apis, tmp_path, "deploy", "embed_text")

    assert ended.returncode == 1
    assert "not enabled in my-project: cloudbuild artifactregistry cloudresourcemanager iam." in ended.stderr
    assert "gcloud services enable run.googleapis.com cloudbuild.googleapis.com" in ended.stderr
    assert {request.method for request in apis.requests} == {"GET"}


def test_without_a_login_it_says_so(tmp_path: Path) -> None:
    ended = deploy_sh("status", folder=tmp_path, **gcloud_environment(tmp_path))  # type: ignore[arg-type]

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "deploy.sh: gcloud is not logged in, or no longer: run gcloud auth login.\n"


def test_without_gcloud_it_says_so(tmp_path: Path) -> None:
    ended = deploy_sh("status", folder=tmp_path)

    assert ended.returncode == 1
    assert "gcloud is not installed" in ended.stderr


def test_delete_asks_first(apis: GoogleApis, tmp_path: Path) -> None:
    ended = deploy_to(apis, tmp_path, "delete", "all")

    assert ended.returncode == 1
    assert "nothing was deleted" in ended.stderr
    assert apis.requests == []


def granted(apis: GoogleApis, resource: str) -> list[tuple[str, list[str]]]:
    """Roles and their members on a resource."""
    return sorted((item["role"], item["members"]) for item in apis.policies[resource]["bindings"])


def unpacked(archive: bytes) -> dict[str, bytes]:
    """The files of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return {name: files.read(name) for name in files.namelist() if not name.endswith("/")}


def staged(folder: Path) -> dict[str, bytes]:
    """What of a staged folder is to be uploaded."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".gcloudignore"
    }
