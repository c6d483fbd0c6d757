"""The command `duplicates` in a process, and GET /duplicates of the servers that read what it stored."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clip_embeddings.duplicates import report
from clip_embeddings.duplicates.report import Member, StoredGroup
from clip_embeddings.search.duplicates import NOTHING_YET
from tests.support.albums import Album, emoji, new_album
from tests.support.serving import ROOT, Server, environment, serving
from tests.support.vectors import model

COMMAND = (sys.executable, "-m", "functions.duplicates")
ORIGINALS = ("emoji/birthday cake.png", "emoji/cat face.png", "emoji/fire engine.png")


def run(album: Album, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = environment({**album.settings, "MODEL": "demo", **settings})
    return subprocess.run(
        [*COMMAND, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def encoded(data: bytes, kind: str, size: int, **options: Any) -> bytes:
    """The same picture in another format and size."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture, mask=picture)
    canvas.resize((size, size), Image.Resampling.LANCZOS).save(file, kind, **options)
    return file.getvalue()


def copies(name: str) -> dict[str, bytes]:
    """Pictures without transparency, of one emoji: a large one, smaller ones, one of less quality."""
    data = emoji()[name]
    return {
        f"large/{name}": encoded(data, "PNG", 288),
        f"small/{name}": encoded(data, "PNG", 144),
        f"web/{name}.jpg": encoded(data, "JPEG", 240, quality=85),
        f"new/{name}.webp": encoded(data, "WEBP", 288, quality=80),
    }


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Emoji, of which three are there several times."""
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add({name: data for name, data in emoji(100).items() if name not in ORIGINALS})
    for name in ORIGINALS:
        made.add(copies(name))
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("search", tmp_path_factory.mktemp("search") / "log", **album.settings) as running:
        yield running


def groups(server: Server, **query: Any) -> Any:
    reply = server.get("/duplicates", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


def members(group: Any) -> list[str]:
    return [member["uri"].partition("/photos/")[2] for member in group["members"]]


def planted(reply: Any) -> list[list[str]]:
    """The groups of the copies that the album was given; emoji that look alike are others."""
    return [members(group) for group in reply["groups"] if any("/emoji/" in name for name in members(group))]


def test_before_the_command_ran_there_is_a_notice(tmp_path: Path) -> None:
    empty = new_album(tmp_path)
    with serving("search", tmp_path / "log", **empty.settings) as server:
        reply = groups(server)
        ended = run(empty)
        again = groups(server)

    assert reply == {
        "groups": [],
        "cursor": None,
        "made": None,
        "threshold": None,
        "space": model().manifest.space,
        "notice": NOTHING_YET,
    }
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"duplicates: the index has no photos of {empty.bucket.url}.\n"
    assert again == reply


def test_copies_are_groups_of_which_the_largest_file_is_first(album: Album, server: Server) -> None:
    dry = run(album, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith("would store ")
    assert groups(server)["made"] is None

    ended = run(album)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == dry.stdout.replace("would store", "stored")
    reply = groups(server, k=100)
    assert (reply["threshold"], reply["notice"], reply["cursor"]) == (0.97, None, None)
    assert time.time() - 300 < _seconds(reply["made"]) < time.time() + 1
    assert sorted(map(sorted, planted(reply))) == sorted(sorted(copies(name)) for name in ORIGINALS)
    for group in reply["groups"]:
        sizes = [member["size"] for member in group["members"]]
        assert sizes[0] == max(sizes)
        scores = [member["score"] for member in group["members"]]
        assert scores == sorted(scores, reverse=True)
        assert (scores[0], group["score"], group["count"]) == (1, scores[-1], len(scores))
        assert group["score"] >= 0.97
    assert [group["score"] for group in reply["groups"]] == sorted(
        (group["score"] for group in reply["groups"]), reverse=True
    )
    # A member is an object as in a search.
    member = reply["groups"][0]["members"][0]
    assert server.get(member["thumbnail"]).status_code == 200
    assert member.keys() >= {"uri", "generation", "content_type", "size", "updated", "labels", "metadata"}


def _seconds(made: str) -> float:
    return datetime.fromisoformat(made).timestamp()


def test_pages_have_every_group_once(album: Album, server: Server) -> None:
    run(album, "--threshold", "0.5")
    every = groups(server, k=100)["groups"]
    assert len(every) > 4

    paged, cursor = [], None
    while True:
        reply = groups(server, k=2, **({"cursor": cursor} if cursor else {}))
        assert len(reply["groups"]) <= 2
        paged += reply["groups"]
        cursor = reply["cursor"]
        if cursor is None:
            break
    assert paged == every

    cursor = groups(server, k=1)["cursor"]
    run(album, "--threshold", "0.5")
    for sent, code in (
        (cursor, "cursor_mismatch"),
        ("x", "cursor_invalid"),
        ("0" * 12 + ".0.0", "cursor_mismatch"),
    ):
        refused = server.get("/duplicates", params={"cursor": sent})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)


def test_pages_go_on_from_part_to_part(album: Album, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run(album, "--threshold", "0.5")
    every = groups(server, k=100)
    stored = report.read_part(album.index, album.bucket.url, model().manifest.space, 0)
    assert stored is not None
    gone = StoredGroup(2, [Member("gone", 1, 1.0), Member("gone too", 1, 0.9)])
    mixed = [each for group in stored.groups for each in (group, gone)]
    # A group for each part.
    monkeypatch.setattr(report, "PART_BYTES", 1)
    report.write_report(album.index, stored.summary, mixed)

    assert groups(server, k=100)["groups"] == every["groups"]
    paged, cursor = [], None
    for _ in range(len(mixed)):
        reply = groups(server, k=1, **({"cursor": cursor} if cursor else {}))
        paged += reply["groups"]
        cursor = reply["cursor"]
        if cursor is None:
            break
    assert (paged, cursor) == (every["groups"], None)


def test_what_has_changed_since_is_left_out(tmp_path: Path) -> None:
    album = new_album(tmp_path)
    for name in ORIGINALS[:2]:
        album.add(copies(name))
    assert run(album).returncode == 0
    cake, cat = ({name: album.entry(name) for name in copies(each)} for each in ORIGINALS[:2])
    first, second, third, fourth = cake
    album.index.delete(album.bucket.url, first, cake[first].generation)
    album.change(second, generation=cake[second].generation + 1)
    for name in list(cat)[:3]:
        album.change(name, space="another")

    # The gateway serves the same route.
    with serving("gateway", tmp_path / "log", **album.settings) as gateway:
        deadline = time.monotonic() + 60
        reply = groups(gateway)
        # Its watcher may repair the index meanwhile; but what was replaced is not what was compared.
        while any(first in members(group) for group in reply["groups"]) and time.monotonic() < deadline:
            reply = groups(gateway)

    assert not any(second in members(group) for group in reply["groups"])
    (group,) = (group for group in reply["groups"] if third in members(group))
    assert fourth in members(group)


def test_the_last_members_of_a_group_vanish_with_it(tmp_path: Path) -> None:
    album = new_album(tmp_path)
    album.add(copies(ORIGINALS[0]))
    assert run(album).returncode == 0
    with serving("search", tmp_path / "log", **album.settings) as server:
        for left in (3, 2, 0):
            (*_, last) = members(groups(server)["groups"][0])
            album.index.delete(album.bucket.url, last, album.entry(last).generation)
            reply = groups(server)
            assert [len(group["members"]) for group in reply["groups"]] == ([left] if left else [])
            assert [group["count"] for group in reply["groups"]] == ([left] if left else [])
        assert reply["notice"] is None


def test_only_one_of_several_tasks_works(album: Album) -> None:
    ended = run(album, CLOUD_RUN_TASK_INDEX="1", CLOUD_RUN_TASK_COUNT="2")

    assert (ended.returncode, ended.stdout) == (0, "")
    assert "one task compares all photos" in ended.stderr


@pytest.mark.parametrize(
    ("options", "settings", "status", "sentence"),
    [
        (["--threshold", "2"], {}, 2, "'2' is not valid: use a cosine from 0.5 to 1"),
        (["--threshold", "97%"], {}, 2, "'97%' is not valid: use a cosine from 0.5 to 1"),
        ([], {"BUCKET_URL": ""}, 1, "BUCKET_URL is not set"),
        ([], {"INDEX_URL": "sqlite:///dev/null/x"}, 1, "duplicates: The folder of the index cannot be made"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    album: Album, options: list[str], settings: dict[str, str], status: int, sentence: str
) -> None:
    ended = run(album, *options, **settings)

    assert ended.returncode == status
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_terminal_shows_progress(album: Album) -> None:
    pytest.importorskip("tqdm")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [*COMMAND, "--dry-run"],
        cwd=ROOT,
        env=environment({**album.settings, "MODEL": "demo"}),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    output: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                output.append(data)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(60) == 0
    reader.join(10)
    os.close(ours)
    text = b"".join(output).decode()
    assert "compared: 100%" in text
