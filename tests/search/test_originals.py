"""Photos in full size: only pictures, only where a setting allows it, and never as anything active."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.support.albums import Album, emoji, new_album
from tests.support.buckets import write_object
from tests.support.pictures import FORMATS, picture
from tests.support.serving import KEY, Server, serving

CAKE = "emoji/birthday cake.png"
TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
TYPES |= {"AVIF": "image/avif", "HEIC": "image/heic"}
HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add({CAKE: emoji()[CAKE]})
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("search") / "log"
    with serving(
        "search", log, SERVE_ORIGINALS="true", MAX_IMAGE_BYTES="3000000", **album.settings
    ) as running:
        yield running


def replace_object(album: Album, name: str, data: bytes) -> str:
    """Put other bytes in the place of a picture of the index; returns its URI."""
    album.add({name: emoji()[CAKE]})
    album.change(name, generation=write_object(album.bucket, name, data), size=len(data))
    return album.uri(name)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_comes_as_it_is_with_its_own_type(server: Server, album: Album, kind: str) -> None:
    data = picture(kind=kind)
    # The declared type of every object is made from its name.
    reply = server.get("/original", params={"uri": replace_object(album, f"a.{kind}.html", data)})

    assert reply.status_code == 200
    assert reply.content == data
    assert reply.headers["Content-Type"] == TYPES[kind]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert reply.headers["Content-Disposition"] == f"inline; filename*=UTF-8''a.{kind}.html"


@pytest.mark.parametrize(
    "data",
    [HTML, SVG, b"\xef\xbb\xbf" + SVG, b"%PDF-1.7", b"", b"only words", b"<?xml version='1.0'?>" + SVG],
)
def test_what_is_no_picture_is_not_sent(server: Server, album: Album, data: bytes) -> None:
    reply = server.get("/original", params={"uri": replace_object(album, "hostile.png", data)})

    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "image_unsupported")
    assert "script" not in reply.text
    assert reply.headers["Content-Type"] == "application/json"


def test_a_picture_with_a_page_in_it_is_sent_as_a_picture(server: Server, album: Album) -> None:
    for data in (b"GIF89a" + HTML, b"BM" + HTML, b"\xff\xd8\xff" + HTML):
        reply = server.get("/original", params={"uri": replace_object(album, "both.html", data)})
        assert reply.headers["Content-Type"].startswith("image/")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in reply.headers["Content-Security-Policy"]


def test_a_large_picture_is_refused_before_it_is_read(server: Server, album: Album) -> None:
    uri = replace_object(album, "large.bmp", b"BM" + bytes(3_000_000))
    reply = server.get("/original", params={"uri": uri})

    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "image_too_large")


def test_it_is_kept_by_generation(server: Server, album: Album) -> None:
    uri, generation = album.uri(CAKE), album.entry(CAKE).generation
    first = server.get("/original", params={"uri": uri, "generation": generation})
    again = server.get("/original", params={"uri": uri}, headers={"If-None-Match": first.headers["ETag"]})
    head = server.ask("HEAD", "/original", params={"uri": uri})
    small = server.get("/thumbnail", params={"uri": uri})

    assert first.headers["Cache-Control"] == "private, max-age=86400"
    assert (again.status_code, again.content) == (304, b"")
    other = server.get("/original", params={"uri": uri}, headers={"If-Match": '"another"'})
    assert (other.status_code, other.content) == (412, b"")
    assert again.headers["Cache-Control"] == "private, no-cache"
    assert (head.status_code, head.content) == (200, b"")
    assert small.headers["ETag"] != first.headers["ETag"]


def test_names_of_any_kind_are_sent(server: Server, album: Album) -> None:
    name = "x/猫 \"'<b>;\\.png"
    reply = server.get("/original", params={"uri": replace_object(album, name, emoji()[CAKE])})

    assert reply.status_code == 200
    assert reply.headers["Content-Disposition"].startswith("inline; filename*=UTF-8''%E7%8C%AB%20%22")
    assert '"' not in reply.headers["Content-Disposition"]


def test_only_what_is_in_the_index_is_sent(server: Server, album: Album) -> None:
    write_object(album.bucket, "not indexed.png", emoji()[CAKE])
    replace_object(album, "gone.png", emoji()[CAKE])
    album.bucket.delete("gone.png")

    for name in ("not indexed.png", "gone.png", "../index.sqlite", f"{'../' * 9}etc/passwd", ""):
        reply = server.get("/original", params={"uri": album.uri(name)})
        assert reply.status_code == 404, name
    assert server.get("/original").json()["error"]["code"] == "field_missing"


def test_nothing_outside_the_folder_is_sent_though_the_index_names_it(
    server: Server, album: Album, tmp_path: Path
) -> None:
    """An index may have been loaded from a file that somebody else made."""
    outside = tmp_path / "outside.png"
    outside.write_bytes(emoji()[CAKE])
    folder = Path(unquote(album.bucket.url.removeprefix("file://")))
    (folder / "link.png").symlink_to(outside)
    (folder / "links").symlink_to(tmp_path)
    names = [
        "link.png",
        "links/outside.png",
        os.path.relpath(outside, folder),
        f"{folder}/{CAKE}",
        "\0.png",
        ".",
    ]
    generation = outside.stat().st_ctime_ns
    entries = [replace(album.entry(CAKE), name=name, generation=generation) for name in names]
    assert all(album.index.upsert(entries))

    for name in names:
        for path in ("/original", "/thumbnail"):
            reply = server.get(path, params={"uri": album.uri(name)})
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "object_gone"), name


@pytest.mark.full
def test_memory_is_given_back(album: Album, log: Path) -> None:
    """As many readers as would fill the memory, several times over."""
    image = Image.effect_noise((1200, 1200), 90)
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = replace_object(album, "noise.png", file.getvalue())
    settings = {**album.settings, "SERVE_ORIGINALS": "1", "MEMORY_LIMIT": "400Mi"}
    with serving("search", log, **settings) as server, ThreadPoolExecutor(8) as pool:

        def get(_: int) -> bool:
            reply = server.get("/original", params={"uri": uri})
            return reply.status_code == 200 and reply.content == file.getvalue()

        assert all(pool.map(get, range(120)))


def test_it_needs_the_key(album: Album, log: Path) -> None:
    with serving("search", log, API_KEY=KEY, SERVE_ORIGINALS="1", **album.settings) as server:
        for path in (f"/original?uri={album.uri(CAKE)}", "/collection"):
            assert server.get(path).status_code == 401
            assert server.get(path, headers={"Accept": "text/html"}).status_code == 401
            reply = server.get(path, headers={"X-API-Key": KEY})
            assert reply.status_code == 200
        assert reply.json()["originals"] is True
