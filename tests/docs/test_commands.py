"""Every command of the README and of docs/ runs, and prints what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import orjson
import pytest

from clip_embeddings.index.factory import open_index
from tests.support.deploy_script import needs_gcloud
from tests.support.documents import PAGES, Block, blocks, example, shape
from tests.support.gcloud_parser import refused_calls
from tests.support.pictures import picture, web
from tests.support.recorded_commands import check, record
from tests.support.serving import ROOT, environment, free_port, serving

BIN = Path(sys.executable).parent
# curl reads its options from here: it uses no proxy, and prints each reply's status to standard error.
CURL_OPTIONS = 'noproxy = "*"\nwrite-out = "%{stderr}status %{http_code}\\n"\n'
# The gateway's port in the pages, and where an example's picture is.
PORT = "8080"
SITE = "https://example.com"
# A folder for files that the pages' examples make.
SCRATCH = "/tmp/album"  # noqa: S108
LANGUAGES = ("sh", "sql", "json", "text", "python", "js", "yaml")


@dataclass
class Shell:
    """A shell for blocks, which replaces the pages' ports, hosts and folders by those of this test."""

    # For whatever the pages keep in SCRATCH.
    folder: Path
    # The real port by the page's.
    ports: dict[str, str]
    # The URL that stands for SITE.
    site: str
    started: ExitStack = field(default_factory=ExitStack)

    def script(self, block: Block) -> str:
        """The text of a block with this test's ports and folders."""
        text = block.text.replace(SITE, self.site).replace(SCRATCH, str(self.folder / "album"))
        text = text.replace(".venv/bin/", f"{BIN}/")
        for port in re.findall(r"(?:localhost:|--port |PORT=)(\d+)", text):
            self.ports.setdefault(port, str(free_port()))
        return re.sub(
            r"(localhost:|--port |PORT=)(\d+)",
            lambda match: match[1].replace("localhost", "127.0.0.1") + self.ports[match[2]],
            text,
        )

    def environment(self) -> dict[str, str]:
        """The environment of a block."""
        variables = environment({"CURL_HOME": str(self.folder)})
        return {**variables, "PATH": f"{BIN}:{variables['PATH']}"}

    def run(self, block: Block) -> str:
        """Paste a block; returns what it prints. Every reply must have the status that its marker says."""
        (self.folder / ".curlrc").write_text(CURL_OPTIONS)
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.script(block)],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, f"{block.place}: {ended.stdout}{ended.stderr}"
        statuses = re.findall(r"^status (\d+)$", ended.stderr, re.MULTILINE)
        last = block.argument.removeprefix("status ")
        if last:
            assert statuses.pop() == last, f"{block.place}: {ended.stdout}"
        assert all(200 <= int(status) < 300 for status in statuses), f"{block.place}: {ended.stdout}"
        return ended.stdout

    def start(self, block: Block) -> None:
        """Paste a block that serves, and wait until it answers."""
        script = self.script(block)
        (port,) = re.findall(r"(?:--port |PORT=)(\d+)", script)
        log = self.folder / f"server-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=ROOT,
                env=self.environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.callback(_stop, process)
        deadline = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}/"):
            assert process.poll() is None, f"{block.place}: {log.read_text()}"
            assert time.monotonic() < deadline, f"{block.place}: {log.read_text()}"
            time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # With the server that bash started. It may have ended by itself.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


def _answers(url: str) -> bool:
    try:
        build_opener(ProxyHandler({})).open(url, timeout=10).close()
    except HTTPError:
        # A function for events takes no GET.
        return True
    except URLError:
        return False
    return True


@pytest.fixture(scope="module")
def gateway_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a gateway like that of `make serve`, with three pictures in its folder."""
    folder = tmp_path_factory.mktemp("gateway")
    pictures = ROOT / "model_cache" / "demo" / "pictures"
    settings = {
        "BUCKET_URL": pictures.as_uri(),
        "INDEX_URL": f"sqlite://{folder}/index.sqlite",
        "JOBS_URL": (folder / "jobs").as_uri(),
        "FETCH_PRIVATE_HOSTS": "127.0.0.1",
    }
    with serving("gateway", folder / "log", **settings) as server:
        deadline = time.monotonic() + 60
        while len(server.get("/search?q=cat").json()["results"]) < len(list(pictures.iterdir())):
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
        yield server.url.rpartition(":")[2]


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server with the picture that the examples name."""
    with web({"/cat.jpg": picture("chelsea")}) as url:
        yield url


@contextmanager
def shell(folder: Path, gateway_port: str, site: str) -> Iterator[Shell]:
    """A shell whose servers end with the block."""
    with ExitStack() as started:
        yield Shell(folder, {PORT: gateway_port}, site, started)


PAGES_WITH_COMMANDS = [page for page in PAGES if any(block.language == "sh" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_the_commands_of_a_page_run(page: str, gateway_port: str, site: str, tmp_path: Path) -> None:
    with shell(tmp_path, gateway_port, site) as terminal:
        printed = ""
        for block in blocks(page):
            if block.runner == "gateway":
                printed = terminal.run(block)
            elif block.runner == "server":
                terminal.start(block)
            elif block.runner == "reply":
                assert shape(orjson.loads(printed)) == shape(example(block)), block.place
            elif block.runner == "output":
                assert printed.strip() == block.text.strip(), block.place


def recorded_calls(page: str, folder: Path) -> list[list[str]]:
    """The calls of the blocks of a page that cannot run for real."""
    calls = []
    for block in blocks(page):
        if block.runner == "recorded":
            made = record(block.text, folder / "recorded")
            assert made, f"{block.place} calls nothing that is recorded"
            calls += made
    return calls


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_commands_that_cannot_run_here_are_valid(page: str, tmp_path: Path) -> None:
    for call in recorded_calls(page, tmp_path):
        check(call, tmp_path)


@needs_gcloud
def test_gcloud_takes_every_command_of_every_page(tmp_path: Path) -> None:
    calls = [call for page in PAGES_WITH_COMMANDS for call in recorded_calls(page, tmp_path)]
    # `auth` and `config` would run without a login.
    parsed = [call[1:] for call in calls if call[0] == "gcloud" and call[1] not in ("auth", "config")]
    assert len(parsed) > 15

    assert refused_calls(parsed, tmp_path) == []


def test_an_event_that_is_posted_by_hand_indexes_the_photo(
    gateway_port: str, site: str, tmp_path: Path
) -> None:
    with shell(tmp_path, gateway_port, site) as terminal:
        for block in blocks("docs/photos-and-index.md"):
            if SCRATCH in block.text and block.runner in ("gateway", "server"):
                terminal.start(block) if block.runner == "server" else terminal.run(block)
                if "ce-type: google.cloud.storage.object.v1.finalized" in block.text:
                    break
        index = open_index(f"sqlite://{tmp_path}/album.sqlite")
        entry = index.get(f"file://{tmp_path}/album/", "birthday-cake.png")

    assert entry is not None
    assert entry.generation == (tmp_path / "album" / "birthday-cake.png").stat().st_ctime_ns


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place} names no language"
        if block.language != "sh":
            assert block.runner in ("", "reply", "output", "layers", "client"), block.place
            continue
        assert block.runner in ("gateway", "server", "recorded"), f"{block.place} does not say how it is run"
        assert block.runner != "recorded" or block.argument, f"{block.place} gives no reason"


def test_a_command_that_fails_is_noticed(gateway_port: str, site: str, tmp_path: Path) -> None:
    def block(text: str, marker: str = "runs: gateway") -> Block:
        return Block("a page", 1, "sh", text, marker)

    with shell(tmp_path, gateway_port, site) as terminal:
        for text in ("false", "curl -s localhost:8080/none", "curl -s localhost:8080/health | false"):
            with pytest.raises(AssertionError):
                terminal.run(block(text))
        terminal.run(block("curl -s localhost:8080/none", "runs: gateway, status 404"))
        with pytest.raises(AssertionError):
            terminal.run(block("curl -s localhost:8080/health", "runs: gateway, status 404"))
    for text in (
        "./deploy.sh --no-such-option deploy all",
        "make no-such-target",
        ".venv/bin/pip install -r no-such-file.txt",
        ".venv/bin/python -m functions.backfill --no-such-option",
    ):
        (call,) = record(text, tmp_path / "recorded")
        with pytest.raises(AssertionError):
            check(call, tmp_path)
