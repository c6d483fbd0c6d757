"""The local server: the index follows a folder of this machine while it changes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import orjson
import pytest

from clip_embeddings.config import load_settings
from clip_embeddings.index.types import Index
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.watcher import FolderWatcher
from clip_embeddings.runtime import make_runtime
from dev.sample_photos import file_name, make_sample_photos
from tests.support.indexes import close_index, opened_index
from tests.support.models import copy_model
from tests.support.photographs import detailed_12mp_jpeg
from tests.support.pictures import in_base64, picture
from tests.support.raw_http import exchange
from tests.support.serving import ROOT, Server, environment, error_code, free_port, refusal, serving
from tests.support.vectors import assert_images, assert_texts
from tests.support.waiting import eventually

CAT, COFFEE, ROCKET = picture("chelsea"), picture("coffee", "WebP"), picture("rocket", "PNG")


@dataclass(frozen=True)
class Folder:
    """A folder of photos, and the index that a gateway maintains for it."""

    path: Path
    index: Index

    @property
    def settings(self) -> dict[str, str]:
        index = self.path.with_name("index.sqlite")
        return {"BUCKET_URL": self.path.as_uri(), "INDEX_URL": f"sqlite://{index}", "MODEL": "demo"}

    def names(self) -> set[str]:
        """The names in the index."""
        return {name for name, *_ in self.index.generations(f"{self.path.as_uri()}/")}

    def has(self, pictures: Mapping[str, bytes]) -> bool:
        """Whether the index has exactly these names, and the vectors of these bytes."""
        entries = [self.index.get(f"{self.path.as_uri()}/", name) for name in pictures]
        if self.names() != set(pictures) or None in entries:
            return False
        try:
            assert_images([entry.vector for entry in entries if entry], *pictures.values())
        except AssertionError:
            return False
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    path = tmp_path / "some photos"
    path.mkdir()
    with opened_index(f"sqlite://{tmp_path}/index.sqlite") as index:
        yield Folder(path, index)


@contextmanager
def closing_index(indexer: Indexer) -> Iterator[None]:
    yield
    close_index(indexer.indexed_bucket.index)


@contextmanager
def gateway(folder: Folder, log: Path) -> Iterator[Server]:
    with serving("gateway", log, **folder.settings) as server:
        yield server


def results(server: Server, text: str) -> list[str]:
    reply = server.post("/search", json={"text": text, "k": 3})
    assert reply.status_code == 200, reply.text
    return [result["uri"].rpartition("/")[2] for result in reply.json()["results"]]


def test_the_index_follows_the_folder(folder: Folder, log: Path, tmp_path: Path) -> None:
    (folder.path / "cat.jpg").write_bytes(CAT)
    (folder.path / "notes.txt").write_text("no picture")
    (folder.path / "half.jpg").write_bytes(CAT[:2000])
    with gateway(folder, log):
        # Present at the start.
        eventually(lambda: folder.has({"cat.jpg": CAT}))
        # Added.
        (folder.path / "coffee").write_bytes(COFFEE)
        eventually(lambda: folder.has({"cat.jpg": CAT, "coffee": COFFEE}))
        # Overwritten, in place and by a file with older times.
        (folder.path / "cat.jpg").write_bytes(ROCKET)
        (tmp_path / "old").write_bytes(CAT)
        os.utime(tmp_path / "old", (1, 1))
        (tmp_path / "old").rename(folder.path / "coffee")
        eventually(lambda: folder.has({"cat.jpg": ROCKET, "coffee": CAT}))
        # Moved away, and back.
        (folder.path / "coffee").rename(tmp_path / "away")
        eventually(lambda: folder.has({"cat.jpg": ROCKET}))
        (tmp_path / "away").rename(folder.path / "coffee")
        eventually(lambda: folder.has({"cat.jpg": ROCKET, "coffee": CAT}))
        # A picture that becomes a text, and an incomplete one that is completed.
        (folder.path / "coffee").write_text("no picture")
        with (folder.path / "half.jpg").open("ab") as file:
            file.write(CAT[2000:])
        eventually(lambda: folder.has({"cat.jpg": ROCKET, "half.jpg": CAT}))
        # Folders, moved in and out.
        (tmp_path / "album" / "deep").mkdir(parents=True)
        (tmp_path / "album" / "deep" / "coffee.webp").write_bytes(COFFEE)
        (tmp_path / "album").rename(folder.path / "album")
        unchanged = {"cat.jpg": ROCKET, "half.jpg": CAT}
        eventually(lambda: folder.has({**unchanged, "album/deep/coffee.webp": COFFEE}))
        (folder.path / "album").rename(tmp_path / "album")
        eventually(lambda: folder.has(unchanged))

    assert "photos: image_undecodable: 1, such as 'half.jpg'" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_changes_made_while_no_gateway_was_running(folder: Folder, log: Path) -> None:
    for name in ("unchanged", "removed", "changed"):
        (folder.path / name).write_bytes(CAT)
    with gateway(folder, log):
        eventually(lambda: folder.has({"unchanged": CAT, "removed": CAT, "changed": CAT}))
    (folder.path / "removed").unlink()
    (folder.path / "changed").write_bytes(COFFEE)
    (folder.path / "added").write_bytes(ROCKET)

    with gateway(folder, log):
        eventually(lambda: folder.has({"unchanged": CAT, "changed": COFFEE, "added": ROCKET}))
        # The line follows the last write.
        eventually(lambda: "photos embedded=2 removed=1 failed=0" in log.read_text())


def test_folders_that_are_moved_away_and_back(folder: Folder, log: Path, tmp_path: Path) -> None:
    """Files in a moved folder keep all their times, that of their last change included."""
    trip, older = folder.path / "trip", tmp_path / "older"
    older.mkdir()
    (older / "a.jpg").write_bytes(COFFEE)
    time.sleep(0.05)
    trip.mkdir()
    for name, data in {"a.jpg": CAT, "b.jpg": ROCKET}.items():
        (trip / name).write_bytes(data)
    both = {"trip/a.jpg": CAT, "trip/b.jpg": ROCKET}
    with gateway(folder, log):
        eventually(lambda: folder.has(both))
        trip.rename(tmp_path / "away")
        eventually(lambda: not folder.names())
        (tmp_path / "away").rename(trip)
        eventually(lambda: folder.has(both))
        # Another folder in its place, with an older file of the same name.
        trip.rename(tmp_path / "away")
        older.rename(trip)
        eventually(lambda: folder.has({"trip/a.jpg": COFFEE}))


def test_a_missing_folder_leaves_the_index_unchanged(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings(folder.settings)
    indexer = open_indexer(open_indexed_bucket(settings), make_runtime("test", ("image",), settings))
    watcher = FolderWatcher(indexer, folder.path, scan_seconds=0.1)
    (folder.path / "cat.jpg").write_bytes(CAT)

    with closing_index(indexer):
        watcher.start()
        eventually(lambda: folder.has({"cat.jpg": CAT}))
        folder.path.rename(tmp_path / "away")
        eventually(lambda: "the folder is not there" in caplog.text)
        assert folder.has({"cat.jpg": CAT})
        (tmp_path / "away").rename(folder.path)
        (folder.path / "coffee").write_bytes(COFFEE)
        eventually(lambda: folder.has({"cat.jpg": CAT, "coffee": COFFEE}))
        watcher.stop(30)


def test_a_missing_folder_stops_the_start(folder: Folder) -> None:
    folder.path.rmdir()

    message = refusal("gateway", **folder.settings)

    assert message == f"gateway cannot start: BUCKET_URL names {folder.path}, which is not a folder.\n"
    assert not folder.path.exists()


def test_a_new_file_can_be_searched_within_two_seconds(folder: Folder, log: Path) -> None:
    folder.path.rmdir()
    make_sample_photos(folder.path)
    cake = folder.path / "birthday-cake.png"
    durations = []
    with gateway(folder, log) as server:
        eventually(lambda: len(folder.names()) == len(list(folder.path.iterdir())))
        assert results(server, "birthday cake")[0] == cake.name
        # The best of four counts, because other processes may use this machine as well.
        for number in range(4):
            copy = folder.path / f"copy{number}.png"
            copy.write_bytes(cake.read_bytes())
            added = eventually(partial(_is_result, server, copy.name, True))
            copy.unlink()
            removed = eventually(partial(_is_result, server, copy.name, False))
            durations.append((added, removed))

    assert min(added for added, _ in durations) < 2, durations
    assert min(removed for _, removed in durations) < 2, durations


def _is_result(server: Server, name: str, expected: bool) -> bool:
    return (name in results(server, "birthday cake")) == expected


def test_requests_are_answered_while_photos_are_embedded(folder: Folder, log: Path) -> None:
    for number in range(40):
        (folder.path / f"{number}.jpg").write_bytes(detailed_12mp_jpeg())

    with gateway(folder, log) as server:
        vector = server.post("/embed/text", json={"texts": ["a cat"]})
        indexed = len(folder.names())
        eventually(lambda: len(folder.names()) == 40)

    assert vector.status_code == 200
    assert indexed < 40


def test_without_watchfiles_the_folder_is_scanned_at_intervals(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    settings = load_settings(folder.settings)
    indexer = open_indexer(open_indexed_bucket(settings), make_runtime("test", ("image",), settings))
    watcher = FolderWatcher(indexer, folder.path)

    with closing_index(indexer):
        (folder.path / "cat.jpg").write_bytes(CAT)
        watcher.start()
        eventually(lambda: folder.has({"cat.jpg": CAT}))
        (folder.path / "coffee").write_bytes(COFFEE)
        eventually(lambda: folder.has({"cat.jpg": CAT, "coffee": COFFEE}))
        watcher.stop(30)


def test_errors_do_not_end_the_watcher(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(folder.settings)
    indexer = open_indexer(open_indexed_bucket(settings), make_runtime("test", ("image",), settings))
    watcher = FolderWatcher(indexer, folder.path, scan_seconds=0.2)
    listing, failures = type(indexer.indexed_bucket.bucket).stats, [OSError("gone"), ValueError("odd")]

    def stats(self: Any, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return listing(self, *arguments)

    monkeypatch.setattr(type(indexer.indexed_bucket.bucket), "stats", stats)
    (folder.path / "cat.jpg").write_bytes(CAT)
    with closing_index(indexer):
        watcher.start()
        eventually(lambda: folder.has({"cat.jpg": CAT}))
        watcher.stop(30)

    assert failures == []


@pytest.mark.parametrize("removed", ["index.sqlite*", "index.sqlite"])
def test_an_index_that_is_removed_is_filled_again(folder: Folder, log: Path, removed: str) -> None:
    (folder.path / "cat.jpg").write_bytes(CAT)
    with gateway(folder, log) as server:
        eventually(lambda: results(server, "a cat") == ["cat.jpg"])
        for file in list(folder.path.parent.glob(removed)):
            file.unlink()

        # Before the next regular scan.
        eventually(lambda: results(server, "a cat") == ["cat.jpg"], seconds=30)

        (folder.path / "coffee").write_bytes(COFFEE)
        eventually(lambda: set(results(server, "a cat")) == {"cat.jpg", "coffee"})
    assert "index.sqlite was removed: a new one is begun." in log.read_text()


def test_a_damaged_index_is_an_error_until_it_is_deleted(folder: Folder, log: Path) -> None:
    index = folder.path.with_name("index.sqlite")
    index.write_bytes(b"no database at all" * 1000)
    (folder.path / "cat.jpg").write_bytes(CAT)
    with gateway(folder, log) as server:
        for reply in (server.post("/search", json={"text": "a cat"}), server.get("/search?q=cat")):
            assert (reply.status_code, error_code(reply)) == (500, "storage_failed")
            assert str(index) not in reply.text
        eventually(lambda: f"photos: The index's file {index} is damaged" in log.read_text())

        index.unlink()

        eventually(lambda: _finds_the_cat(server), seconds=30)
    printed = log.read_text()
    assert "file is not a database): delete it, and the files of the same name" in printed
    assert "Traceback" not in printed


def _finds_the_cat(server: Server) -> bool:
    reply = server.post("/search", json={"text": "a cat"})
    return reply.status_code == 200 and [r["content_type"] for r in reply.json()["results"]] == ["image/jpeg"]


# The command that `make serve` runs.

LAUNCH = """
import sys
from pathlib import Path
from dev import server
server.PHOTOS = Path(sys.argv[1])
sys.exit(server.main(sys.argv[2:]))
"""


@contextmanager
def launched(photos: Path, log: Path, *options: str, **settings: str) -> Iterator[Callable[[str], Any]]:
    """The local server with another default folder; yields a function that GETs JSON from it."""
    port = str(free_port())
    command = [sys.executable, "-c", LAUNCH, str(photos), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment({**settings, "PORT": port}), stdout=output, stderr=output
        )
    opener = build_opener(ProxyHandler({}))

    def get(path: str) -> Any:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=60) as reply:
            return orjson.loads(reply.read())

    try:
        eventually(lambda: "Stop with Ctrl-C" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield get
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_changed_source_file_restarts_the_server(folder: Folder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with launched(tmp_path / "photos", log, "--reload", **folder.settings) as get:
        eventually(lambda: "on CPU" in log.read_text())
        starts = log.read_text().count("text.onnx runs on CPU")

        os.utime(ROOT / "main.py")

        eventually(lambda: "restarting" in log.read_text())
        # The old server may answer once more.
        eventually(lambda: _ready(get) and log.read_text().count("text.onnx runs on CPU") > starts)
        assert log.read_text().count("text.onnx runs on CPU") == starts + 1


def _ready(get: Callable[[str], Any]) -> bool:
    try:
        return bool(get("/ready"))
    except OSError:
        return False


@pytest.mark.parametrize("target", ["serve", "dev"])
def test_a_stopped_make_leaves_no_process_behind(target: str, folder: Folder, tmp_path: Path) -> None:
    # An environment that is installed already, so that make only runs the server.
    python, log = tmp_path / "venv/bin/python", tmp_path / "log"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "venv/installed").touch()
    settings = environment({**folder.settings, "PORT": str(free_port())})
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", f"SERVE={tmp_path}/venv", target],
            cwd=ROOT,
            env=settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    eventually(lambda: "Stop with Ctrl-C" in log.read_text() or process.poll() is not None)

    process.terminate()

    process.wait(60)
    # make does not wait for what it has stopped.
    eventually(lambda: not _runs(process.pid), seconds=60)
    assert "Traceback" not in log.read_text()


def _runs(group: int) -> bool:
    """Whether a process of this process group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "status"),
    [({}, 421), ({"HOST": "0.0.0.0"}, 200), ({"ALLOWED_HOSTS": "tunnel.example,127.0.0.1"}, 200)],  # noqa: S104
    ids=["this machine", "every address", "a tunnel"],
)
def test_a_page_cannot_rebind_its_name_to_the_local_server(
    folder: Folder, tmp_path: Path, settings: dict[str, str], status: int
) -> None:
    log = tmp_path / "log"
    with launched(tmp_path / "photos", log, **folder.settings, **settings) as get:
        head = "GET /search?q=cat HTTP/1.1\nHost: tunnel.example"
        assert exchange(_address(log), head).status == status
        assert get("/ready")["status"] == "ready"
        # Photos in full size are for those who sit at this machine.
        assert get("/collection")["originals"] == ("HOST" not in settings)


JSON_HEADERS = "Host: localhost\nContent-Type: application/json\nContent-Length: LENGTH"


def _address(log: Path) -> str:
    """The URL of the local server whose greeting is in `log`."""
    (port,) = set(re.findall(r"^Serving .*:(\d+)$", log.read_text(), re.MULTILINE))
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("bucket", ["no bucket", "a folder"])
def test_with_a_model_of_texts_alone_photos_are_off(folder: Folder, tmp_path: Path, bucket: str) -> None:
    log = tmp_path / "log"
    (folder.path / "cat.jpg").write_bytes(CAT)
    settings = folder.settings if bucket == "a folder" else {}
    settings |= {"MODEL": str(copy_model(tmp_path / "texts", ("text",)))}
    with launched(tmp_path / "photos", log, **settings) as get:
        url = _address(log)
        assert get("/ready")["status"] == "ready"
        text = exchange(
            url,
            f"POST /embed/text HTTP/1.1\n{JSON_HEADERS}",
            b'{"texts": ["a cat"]}',
        )
        assert_texts(text.json()["embeddings"], "a cat")
        refused = exchange(url, "GET /search?q=cat HTTP/1.1\nHost: localhost")
        head = "HTTP/1.1\nHost: localhost\nAccept: text/html"
        pages = [exchange(url, f"GET {path} {head}").body.decode() for path in ("/", "/search?q=a")]

    off = "Photos are off: the model texts has no image tower."
    assert (refused.status, refused.headers["Embedding-Error-Code"]) == (400, "tower_missing")
    assert refused.json()["error"]["message"] == f"{off} There is nothing to search."
    assert [page.count(f'<p class="notice">{off}</p>') for page in pages] == [1, 1]
    assert "Photos are off: the model has no image tower. Paste:" in log.read_text()
    assert ("WARNING photos are off: the model texts has no image tower." in log.read_text()) == (
        bucket == "a folder"
    )
    assert not (tmp_path / "photos").exists()


def test_with_a_model_of_pictures_alone_pictures_find_pictures(folder: Folder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (folder.path / "cat.jpg").write_bytes(CAT)
    model = str(copy_model(tmp_path / "pictures", ("image",)))
    with launched(tmp_path / "photos", log, **folder.settings | {"MODEL": model}):
        eventually(lambda: folder.names() == {"cat.jpg"})
        head = (
            "POST /search HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: LENGTH"
        )
        reply = exchange(_address(log), head, orjson.dumps({"image": in_base64(CAT)}))
        refused = exchange(_address(log), "GET /search?q=cat HTTP/1.1\nHost: localhost")
        page = exchange(_address(log), "GET / HTTP/1.1\nHost: localhost\nAccept: text/html").body.decode()

    assert [result["uri"].rpartition("/")[2] for result in reply.json()["results"]] == ["cat.jpg"]
    assert refused.json()["error"]["code"] == "tower_missing"
    assert '<p class="notice">Search with a picture: the model pictures has no text tower.</p>' in page


def test_the_greeting_does_not_contain_the_key(folder: Folder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with launched(tmp_path / "photos", log, API_KEY="k" * 20, **folder.settings):
        assert '  curl -s -H "X-API-Key: $API_KEY" localhost:' in log.read_text()
    assert "k" * 20 not in log.read_text()


def test_an_unknown_host_is_named() -> None:
    command = [sys.executable, "-m", "dev.server"]
    settings = environment({"HOST": "nohost.invalid", "BUCKET_URL": "gs://photos", "PORT": str(free_port())})

    ended = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 2
    assert ended.stderr.startswith("serve: HOST='nohost.invalid' is not an address of this machine")


def _first_result(get: Callable[[str], Any]) -> str:
    results = get("/search?q=birthday+cake&k=1")["results"]
    return str(results[0]["uri"].rpartition("/")[2]) if results else ""


def _tagged(get: Callable[[str], Any], label: str) -> set[str]:
    """The files that have a label."""
    results = get(f"/search?q={label}&label={label}")["results"]
    assert all(result["labels"][label] >= 0.8 for result in results)
    return {result["uri"].rpartition("/")[2] for result in results}


def test_a_first_search_finds_a_sample_photo(tmp_path: Path) -> None:
    photos, index = tmp_path / "photos", f"sqlite://{tmp_path}/index.sqlite"
    with launched(photos, tmp_path / "log", INDEX_URL=index) as get:
        eventually(lambda: _first_result(get) == "birthday-cake.png")
        assert "Drop pictures into the folder photos/" in (tmp_path / "log").read_text()
        # The demo model tags them.
        eventually(lambda: _tagged(get, "umbrella") >= {"umbrella.png", "closed-umbrella.png"})
    (photos / "birthday-cake.png").unlink()

    # A sample photo that was removed stays removed.
    with launched(photos, tmp_path / "log", INDEX_URL=index) as get:
        eventually(lambda: _first_result(get) not in ("", "birthday-cake.png"))

    assert not (photos / "birthday-cake.png").exists()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_configured_folder_gets_no_sample_photos(folder: Folder, tmp_path: Path) -> None:
    (folder.path / "cat.jpg").write_bytes(CAT)

    with launched(tmp_path / "photos", tmp_path / "log", **folder.settings) as get:
        eventually(lambda: _first_result(get) == "cat.jpg")

    assert not (tmp_path / "photos").exists()
    assert [path.name for path in folder.path.iterdir()] == ["cat.jpg"]


def test_sample_photos_are_made_again_after_an_interruption(tmp_path: Path) -> None:
    unfinished = tmp_path / "photos.partial"
    unfinished.mkdir()
    (unfinished / "left.png").write_bytes(b"")

    count = make_sample_photos(tmp_path / "photos")

    assert 300 <= count == len(list((tmp_path / "photos").glob("*.png")))
    assert not unfinished.exists()
    assert make_sample_photos(tmp_path / "photos") == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("birthday cake", "birthday-cake"),
        ("piñata", "pinata"),
        ("T-Rex", "t-rex"),
        ("man’s shoe", "mans-shoe"),
    ],
)
def test_file_names_of_emoji(name: str, expected: str) -> None:
    assert file_name(name) == expected
