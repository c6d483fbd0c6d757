"""HTTP functions get traffic after /ready has answered: the real gcloud and curl, against a local server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud_projects import deploy_to, enable, logged_in
from tests.support.cloud_run import deployed, serving
from tests.support.deploy_script import deploy_sh, needs_gcloud
from tests.support.google_apis import IDENTITY_TOKEN, NUMBER, PROJECT, GoogleApis, Request, playing

pytestmark = [needs_gcloud, pytest.mark.full]

# It exists, so that there is less to look up.
ACCOUNT = f"runs@{PROJECT}.iam.gserviceaccount.com"
ASKED = "/revisions/candidate---embed-text/ready"


@pytest.fixture
def apis() -> Iterator[GoogleApis]:
    with playing() as running:
        enable(running)
        yield running


def deploy(apis: GoogleApis, folder: Path, value: int) -> subprocess.CompletedProcess[str]:
    """Deploy embed_text with a setting, so that it differs from what was deployed with another value."""
    options = (*(f"--{kind}={ACCOUNT}" for kind in ("service-account", "build-service-account")),)
    return deploy_to(apis, folder, *options, f"--env=MAX_ITEMS={value}", "deploy", "embed_text")


def serve_something(apis: GoogleApis) -> None:
    """A revision of embed_text that somebody deployed earlier, and that has all traffic."""
    body = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "embed-text", "namespace": NUMBER, "labels": {"app": "clip-functions"}},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"image": "earlier"}]}}},
    }
    apis.services["embed-text"] = deployed(body, None, "http://nowhere.test")


def traffic(apis: GoogleApis) -> list[Any]:
    """What the service asks for."""
    targets: list[Any] = apis.services["embed-text"]["spec"]["traffic"]
    return targets


def revisions(apis: GoogleApis) -> list[str]:
    """The service's revisions, oldest first."""
    return [*apis.services["embed-text"]["status"]["revisions"]]


def changes_service(request: Request) -> bool:
    """Whether a request deploys a revision of embed_text, or moves its traffic."""
    return request.method == "PUT" and request.path.endswith("/services/embed-text")


def moves_traffic(request: Request) -> bool:
    """Whether a request is that of update-traffic."""
    return changes_service(request) and not any("tag" in item for item in request.body["spec"]["traffic"])


def test_traffic_follows_the_check(apis: GoogleApis, tmp_path: Path) -> None:
    first = deploy(apis, tmp_path, 1)

    assert first.returncode == 0, first.stderr
    assert traffic(apis) == [{"latestRevision": True, "percent": 100}]
    (container,) = apis.services["embed-text"]["spec"]["template"]["spec"]["containers"]
    assert "startupProbe" not in container
    asked = [request.token for request in apis.requests if request.path == ASKED]
    assert asked == [IDENTITY_TOKEN]
    assert IDENTITY_TOKEN not in first.stdout + first.stderr

    # What is deployed, and serves, is left alone.
    unchanged = deploy(apis, tmp_path, 1)
    assert "embed_text is unchanged since it was last deployed" in unchanged.stderr
    assert len(revisions(apis)) == 1

    # A service with the probe of earlier versions, which goes.
    container["startupProbe"] = {"httpGet": {"path": "/ready"}}
    apis.requests.clear()
    second = deploy(apis, tmp_path, 2)

    assert second.returncode == 0, second.stderr
    old, new = revisions(apis)
    put, moved = [request.body for request in apis.requests if changes_service(request)]
    assert put["spec"]["traffic"] == [
        {"revisionName": old, "percent": 100},
        {"revisionName": new, "tag": "candidate"},
    ]
    assert moved["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    paths = [request.path for request in apis.requests if changes_service(request) or request.path == ASKED]
    assert paths[1] == ASKED
    assert serving(apis.services["embed-text"]) == new
    (container,) = apis.services["embed-text"]["spec"]["template"]["spec"]["containers"]
    assert "startupProbe" not in container


def test_a_revision_that_is_not_ready_gets_no_traffic(apis: GoogleApis, tmp_path: Path) -> None:
    serve_something(apis)
    (good,) = revisions(apis)

    apis.ready = 503
    wrong = deploy(apis, tmp_path, 2)

    assert wrong.returncode == 1
    assert serving(apis.services["embed-text"]) == good
    assert "The requested URL returned error: 503" in wrong.stderr
    assert f"{ASKED} does not answer 200, so no traffic was moved" in wrong.stderr
    assert (
        f"gcloud run services logs read embed-text --region=us-central1 --limit=100 --project={PROJECT}"
        in (wrong.stderr.replace(" \\\n   ", ""))
    )
    status = deploy_to(apis, tmp_path, "status").stdout
    (line,) = [line.split() for line in status.splitlines() if line.startswith("embed-text")]
    assert line[-1] == revisions(apis)[-1]

    # The label names what does not serve, so the same command is no repetition.
    apis.ready = 200
    again = deploy(apis, tmp_path, 2)

    assert again.returncode == 0, again.stderr
    assert len(revisions(apis)) == 3
    assert serving(apis.services["embed-text"]) == revisions(apis)[-1]
    assert traffic(apis) == [{"latestRevision": True, "percent": 100}]


def test_a_first_revision_that_is_not_ready_is_deployed_again(apis: GoogleApis, tmp_path: Path) -> None:
    apis.starts = False
    assert deploy(apis, tmp_path, 1).returncode == 1
    apis.starts, apis.ready = True, 503

    # Nothing serves yet, so that there is nothing to leave the traffic with.
    started = deploy(apis, tmp_path, 1)
    assert started.returncode == 1
    assert "does not answer 200" in started.stderr
    assert traffic(apis)[0] == {"latestRevision": True, "percent": 100}

    apis.ready = 200
    assert deploy(apis, tmp_path, 1).returncode == 0
    assert serving(apis.services["embed-text"]) == revisions(apis)[-1]


def test_a_deployment_that_was_interrupted_is_repeated(apis: GoogleApis, tmp_path: Path) -> None:
    serve_something(apis)

    # A revision that does not start, then one whose traffic cannot be moved.
    apis.starts = False
    assert deploy(apis, tmp_path, 2).returncode == 1
    apis.starts = True
    apis.refuses = moves_traffic
    assert deploy(apis, tmp_path, 2).returncode == 1
    assert serving(apis.services["embed-text"]) == revisions(apis)[0]
    apis.refuses = lambda request: False
    assert deploy(apis, tmp_path, 2).returncode == 0
    assert serving(apis.services["embed-text"]) == revisions(apis)[-1]
    assert traffic(apis) == [{"latestRevision": True, "percent": 100}]

    # Traffic that a person moved back. The tags of others stay.
    old = revisions(apis)[0]
    back = ["run", "services", "update-traffic", "embed-text", "--region=us-central1", f"--project={PROJECT}"]
    subprocess.run(
        ["gcloud", *back, f"--to-revisions={old}=100", f"--update-tags=blue={old}"],
        env=logged_in(apis, tmp_path),
        check=True,
        capture_output=True,
    )
    assert serving(apis.services["embed-text"]) == old
    assert deploy(apis, tmp_path, 2).returncode == 0
    assert traffic(apis) == [
        {"latestRevision": True, "percent": 100},
        {"revisionName": old, "tag": "blue"},
    ]
    assert "is unchanged" in deploy(apis, tmp_path, 2).stderr


def test_without_an_identity_nothing_is_deployed(apis: GoogleApis, tmp_path: Path) -> None:
    token = tmp_path / "access-token"
    token.write_text("a-token")
    arguments = (f"--project={PROJECT}", "--model=demo", f"--build-dir={tmp_path / 'build'}")
    environment = {**logged_in(apis, tmp_path), "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token)}

    ended = deploy_sh(*arguments, "deploy", "embed_text", folder=tmp_path, **environment)  # type: ignore[arg-type]

    assert ended.returncode == 1
    assert "gcloud gives no identity token" in ended.stderr
    assert apis.services == {}
