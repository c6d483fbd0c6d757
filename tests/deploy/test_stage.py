"""The staged artifact is the product: whole, checked, and running from its own folder with no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.deploy_script import NAMES, deploy_sh
from tests.support.models import copy_model, edit_manifest
from tests.support.serving import ROOT, environment, free_port

DEMO = ROOT / "model_cache" / "demo"
CAKE = DEMO / "pictures" / "birthday-cake.png"
TEXT_TOWER = {"text.onnx", "text.data", "tokenizer.bpe"}
IMAGE_TOWER = {"image.onnx", "image.data"}
JSON = "Content-Type: application/json"

here = {name: (ROOT / "functions" / f"{name}.py").is_file() for name in NAMES}


def stage(
    folder: Path, *names: str, model: str = "demo", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Stage functions below `folder`/build."""
    return deploy_sh(
        f"--model={model}",
        f"--build-dir={folder / 'build'}",
        "stage",
        *names,
        folder=folder,
        **settings,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds every function's artifact with the demo model, staged at once."""
    folder = tmp_path_factory.mktemp("staged")
    ended = stage(folder, *(name for name, present in here.items() if present))
    assert ended.returncode == 0, ended.stderr
    return folder / "build"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_swagger_ui_is_installed_where_it_is_asked_for(tmp_path: Path, staged: Path) -> None:
    build = f"--build-dir={tmp_path / 'build'}"
    ended = deploy_sh(
        "--model=demo", "--env", "DOCS_PAGE=swagger", build, "stage", "embed_text", folder=tmp_path
    )

    assert ended.returncode == 0, ended.stderr
    assert "flask-swagger-ui==" in (tmp_path / "build/embed_text/requirements.txt").read_text()
    assert "swagger" not in (staged / "embed_text/requirements.txt").read_text()


@pytest.mark.parametrize(
    ("name", "towers", "packages", "unneeded"),
    [
        (
            "embed_text",
            TEXT_TOWER,
            {"ftfy", "regex"},
            {"pillow", "requests", "google-cloud-storage", "tokenizers"},
        ),
        ("embed_image", IMAGE_TOWER, {"pillow", "requests"}, {"tokenizers", "ftfy", "google-cloud-storage"}),
        ("embed_mixed", TEXT_TOWER | IMAGE_TOWER, {"pillow", "regex"}, {"google-cloud-storage"}),
        ("run_job", TEXT_TOWER | IMAGE_TOWER, {"pillow", "google-cloud-storage"}, {"torch"}),
    ],
)
def test_an_artifact_holds_what_its_function_needs(
    name: str, towers: set[str], packages: set[str], unneeded: set[str], staged: Path
) -> None:
    present = files(staged / name)

    assert (staged / name / "main.py").read_text() == f"from functions.{name} import {name}\n"
    model = {path.removeprefix("model_cache/demo/") for path in present if path.startswith("model_cache/")}
    assert model == {"manifest.json", *towers}
    rest = {
        path for path in present if not path.startswith(("clip_embeddings/", "functions/", "model_cache/"))
    }
    assert rest == {"main.py", "requirements.txt", ".gcloudignore"}
    assert {path for path in present if path.startswith("functions/")} == {
        "functions/__init__.py",
        f"functions/{name}.py",
    }
    # Unchanged copies.
    for path in (path for path in present if path.startswith(("functions/", "clip_embeddings/"))):
        assert (staged / name / path).read_bytes() == (ROOT / path).read_bytes()
    assert not [path for path in present if "__pycache__" in path or path.endswith(".pyc")]
    installed = {line.partition("==")[0] for line in (staged / name / "requirements.txt").read_text().split()}
    assert packages <= installed
    assert not unneeded & installed
    # Flat: pip reads nothing outside the folder.
    assert "-r" not in (staged / name / "requirements.txt").read_text().split()


def test_a_picture_function_that_reads_buckets_gets_the_client(tmp_path: Path) -> None:
    stage(tmp_path, "embed_image", ALLOWED_BUCKETS="some-bucket")

    assert "google-cloud-storage==" in (tmp_path / "build/embed_image/requirements.txt").read_text()


# Imports every staged module, in the folder it was staged to; what only runs once is not run.
IMPORT_ALL = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path().rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
print(*sorted(name for name in sys.modules if name.startswith("clip_embeddings.")))
"""


@pytest.mark.parametrize("name", ["embed_text", "run_job", "search", "on_delete", "gateway"])
def test_every_import_of_a_staged_module_is_staged_too(name: str, staged: Path, tmp_path: Path) -> None:
    settings = {
        "JOBS_URL": f"file://{tmp_path}/jobs",
        "INDEX_URL": f"sqlite:///{tmp_path}/index",
        "BUCKET_URL": f"file://{tmp_path}",
    }

    ended = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL],
        cwd=staged / name,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert ended.returncode == 0, ended.stderr
    imported = {path.replace(".", "/") for path in ended.stdout.split()}
    # Nothing was imported from elsewhere.
    assert imported == {
        path.removesuffix(".py").removesuffix("/__init__")
        for path in files(staged / name)
        if path.startswith("clip_embeddings/") and path.endswith(".py")
    } - {"clip_embeddings"}


def test_a_function_holds_no_module_that_it_does_not_import(staged: Path) -> None:
    def packages(name: str) -> set[str]:
        return {path.split("/")[1] for path in files(staged / name) if path.startswith("clip_embeddings/")}

    assert packages("embed_text").isdisjoint({"search", "jobs", "photos"})
    assert packages("run_job").isdisjoint({"search", "photos"})
    assert packages("on_delete").isdisjoint({"search", "jobs", "http"})
    assert packages("gateway") >= {"search", "jobs", "photos", "http"}
    protocols = {path.stem for path in (staged / "embed_text/clip_embeddings/protocols").glob("*.py")}
    assert protocols >= {"native", "notebook", "photo_app", "encoder"}
    # Which backends there are is part of the settings; the backends are not.
    registry = {path for path in files(staged / "embed_text") if path.startswith("clip_embeddings/index/")}
    assert registry == {"clip_embeddings/index/__init__.py", "clip_embeddings/index/registry.py"}
    backends = {path.rpartition("/")[2] for path in files(staged / "search") if "/index/" in path}
    assert backends >= {"firestore.py", "sqlite.py"}


def test_the_chosen_index_brings_its_modules_and_packages(tmp_path: Path) -> None:
    index = "--index=postgresql://photos@db.example/photos?table=photos"
    build = f"--build-dir={tmp_path}/build"

    ended = deploy_sh("--model=demo", build, index, "stage", "search", folder=tmp_path)

    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "build" / "search"
    backends = {path.name for path in (folder / "clip_embeddings" / "index").iterdir()}
    assert backends >= {"postgres.py", "postgres_pool.py", "sqlite.py"}
    assert "firestore.py" not in backends
    requirements = (folder / "requirements.txt").read_text()
    assert "psycopg[binary,pool]==" in requirements
    assert "google-cloud-firestore" not in requirements


def test_editing_the_search_page_changes_search_and_not_embed_text(checkout: Path, tmp_path: Path) -> None:
    def hashes() -> dict[str, str]:
        names = ("embed_text", "search")
        ended = deploy_sh("--model=demo", "stage", *names, folder=tmp_path, checkout=checkout)
        assert ended.returncode == 0, ended.stderr
        return {name: (checkout / "build" / f"{name}.hash").read_text() for name in names}

    before = hashes()
    edited = before
    for name in ("search.css", "search.js", "grid.js", "search.html", "__init__.py"):
        page = checkout / "clip_embeddings/search/page" / name
        page.write_text(page.read_text() + "\n")
        previous, edited = edited, hashes()
        assert edited["embed_text"] == before["embed_text"]
        assert edited["search"] != previous["search"]


def test_one_staged_model_answers_without_the_setting(tmp_path: Path) -> None:
    only = copy_model(tmp_path / "only", ("image",))
    assert stage(tmp_path, "embed_image", model=str(only)).returncode == 0

    ended = subprocess.run(
        [
            *(sys.executable, "-B", "-c"),
            "from functions.embed_image import APP; print(*APP.runtime.models)",
        ],
        cwd=tmp_path / "build" / "embed_image",
        env=environment({}) | {"MODEL": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout) == (0, "only\n"), ended.stderr


MISSING = [name for name, present in here.items() if not present]


@pytest.mark.skipif(not MISSING, reason="every function is in this checkout")
def test_a_function_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    for name in MISSING:
        ended = stage(tmp_path, name)

        assert ended.returncode == 1
        assert f"There is no functions/{name}.py in this checkout" in ended.stderr
        assert not (tmp_path / "build" / name).exists()


def test_several_models_in_one_artifact(tmp_path: Path) -> None:
    second = copy_model(tmp_path / "second")
    pictures = copy_model(tmp_path / "pictures", ("image",))

    ended = stage(tmp_path, "embed_mixed", "search", MODELS=f"{second},{pictures}")

    assert ended.returncode == 0, ended.stderr
    both = TEXT_TOWER | IMAGE_TOWER
    expected = {"demo": both, "second": both, "pictures": IMAGE_TOWER}
    built = tmp_path / "build"
    assert files(built / "embed_mixed" / "model_cache") == {
        f"{name}/{file}" for name, towers in expected.items() for file in {"manifest.json", *towers}
    }
    # The index holds the vectors of one model.
    assert [path.name for path in (built / "search" / "model_cache").iterdir()] == ["demo"]


def test_a_model_with_a_tokenizer_of_the_library_gets_the_library(tmp_path: Path) -> None:
    second = copy_model(tmp_path / "second")
    (second / "tokenizer.bpe").rename(second / "tokenizer.json")

    def rename(manifest: Any) -> None:
        manifest["towers"]["text"]["files"][2]["path"] = "tokenizer.json"

    edit_manifest(second, rename)

    ended = stage(tmp_path, "embed_mixed", "search", MODELS=str(second))

    assert ended.returncode == 0, ended.stderr
    build = tmp_path / "build"
    assert "tokenizers==" in (build / "embed_mixed" / "requirements.txt").read_text()
    # It serves the first model only.
    assert "tokenizers==" not in (build / "search" / "requirements.txt").read_text()


def test_a_model_without_a_text_tower(tmp_path: Path) -> None:
    pictures = str(copy_model(tmp_path / "pictures", ("image",)))

    refused = stage(tmp_path, "embed_text", model=pictures)
    taken = stage(tmp_path, "gateway", model=pictures)

    assert refused.returncode == 1
    assert "embed_text: The model pictures has no text tower, which this function needs." in refused.stderr
    assert taken.returncode == 0, taken.stderr
    assert files(tmp_path / "build/gateway/model_cache/pictures") == {"manifest.json", *IMAGE_TOWER}


def test_the_demo_model_is_refused_unless_named(tmp_path: Path) -> None:
    ended = deploy_sh(f"--build-dir={tmp_path / 'build'}", "stage", "embed_text", folder=tmp_path)

    assert ended.returncode == 1
    assert "No baked model" in ended.stderr
    assert "model_cache.bake" in ended.stderr


@pytest.mark.parametrize("file", ["text.data", "tokenizer.bpe"])
def test_a_corrupted_model_file_stops_the_stage_with_its_name(file: str, tmp_path: Path) -> None:
    model = tmp_path / "my model"
    shutil.copytree(DEMO, model, ignore=shutil.ignore_patterns("*.py", "pictures"))
    data = bytearray((model / file).read_bytes())
    data[len(data) // 2] ^= 1
    (model / file).write_bytes(data)

    # By a folder relative to where the person is, with a blank in its name.
    ended = stage(tmp_path, "embed_text", model="./my model")

    assert ended.returncode == 1
    assert f"my model/{file} is damaged" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "build" / "embed_text").exists()
    # The other tower is whole.
    assert stage(tmp_path, "embed_image", model="./my model").returncode == 0


def test_the_content_hash_changes_with_content_only(staged: Path, tmp_path: Path) -> None:
    again = stage(tmp_path, "embed_text")

    first = (staged / "embed_text.hash").read_text()
    assert (tmp_path / "build" / "embed_text.hash").read_text() == first
    assert f"content {first.strip()}" in again.stdout
    assert "(model 8.1, code 0." in again.stdout
    assert (staged / "embed_image.hash").read_text() != first


def test_gcloud_would_upload_the_model(staged: Path, tmp_path: Path) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    from tests.support.deploy_script import gcloud_environment

    listed = subprocess.run(
        ["gcloud", "meta", "list-files-for-upload", str(staged / "embed_text")],
        env=gcloud_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert {*listed.stdout.split()} == files(staged / "embed_text") - {".gcloudignore"}


def install(folder: Path, at: Path) -> Path:
    """A fresh virtual environment at `at` with `folder`'s requirements; its Python."""
    python = at / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", at], check=True)
        # Compiled below, as the buildpack does, so that broken files are found once.
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
        ]
        subprocess.run([*pip, "-r", folder / "requirements.txt"], check=True)
        subprocess.run([python, "-m", "pip", "check", "--disable-pip-version-check"], check=True)
    return python


def installed_megabytes(at: Path) -> float:
    """MB of what requirements brought into a virtual environment."""
    (packages,) = at.glob("lib/python*/site-packages")
    own = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    paths = (path for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    return (
        sum(path.stat().st_size for path in paths if not path.relative_to(packages).parts[0].startswith(own))
        / 1e6
    )


class Alone:
    """A staged function in a process that has no network but its own loopback."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def curl(self, path: str, *options: str) -> tuple[int, bytes]:
        """Status and body of a request, sent from inside that network."""
        enter = ["nsenter", "--net", f"--target={self.process.pid}"]
        request = [
            "curl",
            "-s",
            "-w",
            "%{stderr}%{http_code}",
            f"http://127.0.0.1:{self.port}{path}",
            *options,
        ]
        ended = subprocess.run([*enter, *request], capture_output=True, timeout=60)
        return (0, b"") if ended.returncode else (int(ended.stderr), ended.stdout)

    def embedding(self, path: str, *options: str) -> np.ndarray:
        status, body = self.curl(path, *options)
        assert status == 200, body
        reply: dict[str, Any] = json.loads(body)
        return np.array(reply.get("embedding") or reply["embeddings"])

    def resident(self) -> float:
        """MB of its largest process."""
        sizes = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            sizes += [_resident(int(pid)) for pid in children.read_text().split()]
        return max([*sizes, _resident(self.process.pid)])


def _resident(pid: int) -> float:
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) * 1.024 / 1000


@contextmanager
def alone(folder: Path, name: str, python: Path, signature: str = "http", **settings: str) -> Iterator[Alone]:
    """Start functions-framework for `name` in `folder`, as the buildpack's image does."""
    port, log = free_port(), folder.with_suffix(".log")
    framework = f"{python} -B -m functions_framework --target {name} --signature-type {signature}"
    serve = f"exec {framework} --host 127.0.0.1 --port {port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--net", "bash", "-c", f"ip link set lo up && {serve}"],
            cwd=folder,
            env={
                **environment(settings),
                "PATH": f"{python.parent}:{os.environ['PATH']}",
                "HOME": str(folder.parent),
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Alone(process, port, log)
    try:
        deadline = time.monotonic() + 60
        # An event function answers GET with 405.
        while server.curl("/")[0] not in (200, 405):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def canary(tower: str) -> np.ndarray:
    manifest = json.loads((DEMO / "manifest.json").read_text())
    return np.array(manifest["towers"][tower]["canary"]["vector"])


def compiles(folder: Path, python: Path) -> None:
    """What the buildpack does to everything uploaded."""
    subprocess.run([python, "-m", "compileall", "-q", "-f", "."], cwd=folder, check=True)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "curl"))),
    reason="a network of its own needs root, unshare, nsenter, ip and curl",
)


@needs_root
def test_embed_text_runs_from_its_folder_alone(staged: Path, tmp_path: Path) -> None:
    # Moved away: nothing can be found beside it.
    folder = Path(shutil.copytree(staged / "embed_text", tmp_path / "app"))
    python = install(folder, tmp_path / "venv")
    compiles(folder, python)

    with alone(folder, "embed_text", python, MODEL="demo") as server:
        assert server.curl("/ready")[0] == 200
        text = json.loads((DEMO / "manifest.json").read_text())["towers"]["text"]["canary"]["input"]
        vectors = server.embedding("/", "-H", JSON, "-d", json.dumps({"texts": [text, "x"]}))
        documented, _ = server.curl("/openapi.json")
        resident = server.resident()

    assert vectors[0] @ canary("text") > 0.9999
    assert documented == 200
    assert resident < 300
    assert installed_megabytes(tmp_path / "venv") < 240


# What is asked of a function, and what it answers. Events are acknowledged with 200.
SMOKE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "embed_text": ("/", ("-d", "text=birthday cake")),
    "embed_image": ("/", ("-F", f"file=@{CAKE}")),
    "embed_mixed": ("/", ("-H", JSON, "-d", json.dumps({"texts": ["birthday cake"], "urls": ["data:,"]}))),
    "jobs": ("/api/models", ()),
    "search": ("/ready", ()),
    "gateway": ("/embed/text", ("-d", "text=birthday cake")),
}


@needs_root
@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_every_function_runs_from_its_folder_alone(
    name: str, staged: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not here[name]:
        pytest.skip(f"functions/{name}.py is not in this checkout")
    folder = Path(shutil.copytree(staged / name, tmp_path / "app"))
    expected = (folder / "requirements.txt").read_bytes()
    python = install(
        folder, tmp_path_factory.getbasetemp() / f"venv-{hashlib.sha256(expected).hexdigest()[:8]}"
    )
    compiles(folder, python)
    if name in ("backfill", "duplicates"):
        subprocess.run([python, "-m", f"functions.{name}", "--help"], cwd=folder, check=True)
        return
    (tmp_path / "photos").mkdir()
    settings = {
        "MODEL": "demo",
        "JOBS_URL": f"file://{tmp_path}/jobs",
        "INDEX_URL": f"sqlite:///{tmp_path}/index",
        "BUCKET_URL": f"file://{tmp_path}/photos",
    }
    signature = "http" if name in SMOKE else "cloudevent"

    with alone(folder, name, python, signature, **settings) as server:
        if name not in SMOKE:
            headers = {
                "ce-id": "1",
                "ce-source": "//storage",
                "ce-specversion": "1.0",
                "ce-type": "google.cloud.storage.object.v1.finalized",
            }
            event = [part for key, value in headers.items() for part in ("-H", f"{key}: {value}")]
            answered = server.curl("/", *event, "-H", JSON, "-d", '{"bucket": "b", "name": "no-job"}')
        else:
            path, options = SMOKE[name]
            answered = server.curl(path, *options)
        assert answered[0] == 200, (answered, server.log.read_text())


@needs_root
@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "megabytes", "request_options"),
    [("embed_text", 90, ("/", "-d", "text=a cake")), ("embed_image", 110, ("/", "-F", f"file=@{CAKE}"))],
)
def test_an_int8_vit_b_32_is_small_enough(
    name: str, megabytes: int, request_options: tuple[str, ...], tmp_path: Path
) -> None:
    from tests.bench import weights

    ended = stage(tmp_path, name, model=str(weights.baked("int8")))
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "build" / name
    python = install(folder, tmp_path / "venv")

    with alone(folder, name, python, MODEL=next((folder / "model_cache").iterdir()).name) as server:
        assert server.embedding(*request_options).shape == (512,)
        resident = server.resident()

    code = sum((folder / path).stat().st_size for path in files(folder)) / 1e6
    # As pip leaves them where it is not told otherwise.
    subprocess.run([python, "-m", "compileall", "-q", tmp_path / "venv"], stdout=subprocess.DEVNULL)
    libraries = installed_megabytes(tmp_path / "venv")
    print(
        f"{name}: {code:.1f} MB of model and code, {libraries:.1f} MB installed, {resident:.0f} MB resident"
    )
    assert code < megabytes
    assert libraries < 240
    assert resident < 300
