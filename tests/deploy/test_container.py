"""The container's second stage, without a container engine.

Its settings and command on a read-only file system, without a network, as an unprivileged user. Its first
stage and the base image are not run here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.options import PYTHON
from model_cache.baking.catalogue import DEFAULT_MODEL
from tests.support.deploy_script import deploy_sh
from tests.support.serving import ROOT, environment, free_port

DOCKERFILE = (ROOT / "Dockerfile").read_text()

# Every mount read-only but DATA; then a user that is not root, without a single capability.
CONFINED = """
ip link set lo up
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
while read -r _ place _; do
  [[ $place == "$DATA" || $place == /proc* || $place == /sys* ]] || mount -o remount,bind,ro "$place" || true
done </proc/mounts
exec unshare --user --map-user=65532 --map-group=65532 "$@"
"""


def settings() -> dict[str, str]:
    """What ENV sets in the second stage."""
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    lines = re.findall(r"^ENV (.*)$", final, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def command() -> list[str]:
    """What CMD runs."""
    words: list[str] = json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[0])
    return words


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "curl"))),
    reason="a file system of its own needs root, unshare, nsenter, ip and curl",
)
def test_the_gateway_runs_unprivileged_on_a_read_only_file_system(tmp_path: Path) -> None:
    deploy_sh("--model=demo", f"--build-dir={tmp_path / 'out'}", "stage", "gateway", folder=tmp_path)
    data, port, log = tmp_path / "data", free_port(), tmp_path / "log"
    data.mkdir()
    variables = {key: value.replace("/data", str(data)) for key, value in settings().items()}
    variables |= {"MODEL": "demo", "PORT": str(port), "DATA": str(data)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "bash", "-c", CONFINED, "bash", *command()],
            cwd=tmp_path / "out" / "gateway",
            env=environment(variables | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def curl(path: str, *options: str) -> str:
        enter = ["nsenter", "--net", f"--target={process.pid}"]
        request = ["curl", "-s", f"http://127.0.0.1:{port}{path}", *options]
        return subprocess.run([*enter, *request], capture_output=True, text=True, timeout=60).stdout

    def wait(path: str, word: str) -> None:
        deadline = time.monotonic() + 60
        while word not in curl(path):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    try:
        wait("/ready", '"ready"')
        body = ("-H", "Content-Type: application/json", "-d", '{"text": "a"}')
        job = json.loads(curl("/api/tasks/text-embedding/demo/jobs", *body))
        wait(f"/api/tasks/text-embedding/jobs/{job['id']}", '"complete"')
        inside = subprocess.run(
            ["nsenter", "--user", "--preserve-credentials", f"--target={process.pid}", "id", "-u"],
            capture_output=True,
            text=True,
        ).stdout.strip()
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(
                ["nsenter", "--mount", f"--target={process.pid}", "touch", str(tmp_path / "out" / "written")],
                check=True,
                capture_output=True,
            )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    assert inside == "65532"
    assert (data / "jobs" / job["id"] / "result.json").is_file()


@pytest.mark.parametrize("variables", [{"PORT": "9001"}, {"PORT": "8080", "AIP_HTTP_PORT": "9001"}])
def test_the_port_is_the_one_that_cloud_run_or_vertex_ai_names(
    variables: dict[str, str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    printed = subprocess.run(
        command(),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed.endswith("--port 9001\n")


def test_it_has_the_same_model_and_python_as_a_deployment() -> None:
    models = re.findall(r"^ARG MODEL=(.*)$", DOCKERFILE, re.MULTILINE)
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    assert models == [DEFAULT_MODEL]
    assert {*images} == {f"python:{PYTHON}-slim"}


def test_the_second_stage_is_for_serving_only() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]

    assert "USER 65532:65532" in final
    assert "VOLUME /data" in final
    assert "torch" not in final
    assert "model_cache" not in final
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "build"} <= {*ignored}
