"""The examples: the client is run, and the others are parsed and compared with what they must agree with."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hcl2
import pytest
import requests
import yaml

from clip_embeddings.config import load_settings
from clip_embeddings.index.registry import find_backend
from model_cache.baking.arguments import parse_arguments
from tests.support.documents import read_page
from tests.support.serving import ROOT, Server, environment

EXAMPLES = ROOT / "examples"


def _run(command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=120
    )


def test_every_example_is_named_in_the_readme_or_a_page() -> None:
    pages = "".join(read_page(page) for page in ("README.md", "docs/clients.md", "docs/deployment.md"))
    for path in (path for path in EXAMPLES.rglob("*") if path.is_file() and ".terraform" not in path.parts):
        assert path.relative_to(ROOT).as_posix() in pages


# The client.


def test_the_client_is_short() -> None:
    assert len((EXAMPLES / "client.py").read_text().splitlines()) <= 40


@pytest.fixture
def starting_service(gateway: Server) -> Iterator[str]:
    """The URL of a service that answers its first request as if it still started, then as the gateway."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requested.append(self.path)
            if len(requested) == 1:
                self.send_error(503)
                return
            reply = requests.post(
                gateway.url + self.path, data=body, headers={"Content-Type": "application/json"}, timeout=60
            )
            self.send_response(reply.status_code)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_client_asks_a_service_that_starts_again(starting_service: str) -> None:
    ended = _run(
        [sys.executable, "examples/client.py", "a birthday cake", "a cat"], CLIP_URL=starting_service
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["128", "128"]


# Docker compose.


def test_the_composed_gateway_has_the_packages_of_its_index(tmp_path: Path) -> None:
    compose = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
    gateway, database = compose["services"]["gateway"], compose["services"]["database"]
    url = gateway["environment"]["INDEX_URL"]
    backend = find_backend(url)

    # Raises what would stop the start.
    load_settings(gateway["environment"])
    assert "pgvector" in database["image"]
    assert set(gateway["build"]["args"]) <= set(
        re.findall(r"^ARG (\w+)=", (ROOT / "Dockerfile").read_text(), re.M)
    )
    assert (EXAMPLES / gateway["build"]["context"]).resolve() == ROOT
    # Both mount the socket's folder, and every volume is declared.
    assert f"host={_target(gateway, 'socket')}&" in url
    assert _target(database, "socket") == _target(gateway, "socket")
    named = {mount.split(":")[0] for service in (gateway, database) for mount in service["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    # As the Dockerfile stages it.
    staged = _run(
        ["./deploy.sh", "--model=demo", f"--build-dir={tmp_path}", "stage", "gateway"],
        INDEX=gateway["build"]["args"]["INDEX"],
    )
    assert staged.returncode == 0, staged.stderr
    assert backend.package is not None
    lines = (ROOT / backend.package.requirements).read_text().splitlines()
    assert {line for line in lines if line and not line.startswith(("#", "-r"))} <= set(
        (tmp_path / "gateway/requirements.txt").read_text().splitlines()
    )


def _target(service: dict[str, Any], volume: str) -> str:
    (target,) = (mount.split(":")[1] for mount in service["volumes"] if mount.startswith(f"{volume}:"))
    return str(target)


# The GitHub Actions workflow.


def test_the_workflow_bakes_and_deploys(tmp_path: Path) -> None:
    workflow = yaml.safe_load((EXAMPLES / "deploy.yml").read_text())
    (job,) = workflow["jobs"].values()
    # YAML 1.1 reads the key `on` as true.
    functions = workflow[True]["workflow_dispatch"]["inputs"]["functions"]["default"]
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
    install, bake = job["steps"][3]["run"].splitlines()
    assert (ROOT / install.split()[-1]).is_file()
    model = workflow["env"]["MODEL"]
    assert parse_arguments(shlex.split(bake.replace("$MODEL", model))[3:]).name == model

    deploy = job["steps"][-1]["run"].replace("./deploy.sh", "./deploy.sh --dry-run")
    settings = {"PROJECT": "my-project", "REGION": "europe-west1", "FUNCTIONS": functions, "MODEL": "demo"}
    assert set(job["steps"][-1]["env"]) == {"PROJECT", "REGION", "FUNCTIONS"}
    ended = _run(["bash", "-euo", "pipefail", "-c", deploy], **settings, BUILD_DIR=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"gcloud run deploy (\S+)", ended.stdout) == ["embed-text", "embed-image"]


# Terraform.


@pytest.fixture(scope="module")
def planned() -> str:
    """What `deploy.sh deploy all` would do for the demo model."""
    command = ["./deploy.sh", "--project=my-project", "--model=demo", "--dry-run", "deploy", "all"]
    ended = _run(command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.replace("\\\n", " ")


@pytest.fixture(scope="module")
def terraform() -> Any:
    """The parsed file, its strings without quotation marks."""
    return _unquoted(hcl2.loads((EXAMPLES / "terraform/main.tf").read_text()))


def _unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.strip('"'): _unquoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def test_terraform_makes_the_functions_of_a_deployment(terraform: Any, planned: str) -> None:
    (variables,) = terraform["locals"]
    functions = variables["http_functions"] | variables["event_functions"]
    deployed = re.findall(r"gcloud run deploy .*? --memory=(\S+) .*?--function=(\S+)", planned)

    assert {name: function["memory"] for name, function in functions.items()} == {
        name: memory for memory, name in deployed
    }
    for name, event in re.findall(r"triggers create (\S+) .*?storage\.object\.v1\.(\w+)", planned):
        assert variables["event_functions"][name.replace("-", "_")]["event"] == event
    for name, line in re.findall(r"--set-env-vars=\S+?,MEMORY_LIMIT=\w+(\S*) .*?--function=(\S+)", planned):
        environment = functions[line]["env"]
        keys = variables["photos"] if environment == "${local.photos}" else environment
        assert set(re.findall(r",(\w+)=", name)) == set(keys)


def test_terraform_gives_the_roles_and_enables_the_services_of_a_deployment(planned: str) -> None:
    text = (EXAMPLES / "terraform/main.tf").read_text()

    assert set(re.findall(r"roles/[\w.]+", text)) == set(re.findall(r"roles/[\w.]+", planned))
    services = set(re.findall(r"(\w+)\.googleapis\.com", planned))
    assert services <= set(re.findall(r'"(\w+)"', text))
    assert set(re.findall(r"clip-(?:functions|builds|events)", planned)) == set(
        re.findall(r'account_id\s+= "(.*)"', text)
    )


def test_every_reference_of_terraform_leads_to_a_resource(terraform: Any) -> None:
    declared = {f"{kind}.{name}" for block in terraform["resource"] for kind in block for name in block[kind]}
    text = (EXAMPLES / "terraform/main.tf").read_text()

    assert set(re.findall(r"(?<!data\.)\bgoogle_\w+\.\w+", text)) <= declared
