"""Search over HTTP: text, picture, more like this, thumbnails; against a folder and an index on the disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image

from clip_embeddings.engine.model import normalize_rows
from tests.support import gcs_server
from tests.support.albums import Album, emoji, new_album
from tests.support.buckets import write_object
from tests.support.photographs import photos
from tests.support.pictures import FORMATS, data_uri, in_base64, picture, web
from tests.support.serving import KEY, Server, serving
from tests.support.thumbnails import thumbnail_file
from tests.support.vectors import model, raw_texts

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CAKE = "emoji/birthday cake.png"
ODD = ["odd/'\"<b>&amp;.png", "odd/a?b#c%41.png", "odd/猫 🐱 קיטי.png", f"odd/{'long ' * 50}.png"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Emoji, photos and odd names."""
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add(emoji())
    made.add({f"photos/{name}": data for name, data in photos().items()}, camera="<b>K1</b>")
    made.add({name: emoji()["emoji/cat face.png"] for name in ODD})
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {**album.settings, "FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with serving("search", tmp_path_factory.mktemp("search") / "log", **settings) as running:
        yield running


def search(server: Server, **body: Any) -> Any:
    reply = server.post("/search", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def names(reply: Any) -> list[str]:
    return [result["uri"].partition("/photos/")[2] for result in reply["results"]]


def expected(album: Album, vector: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The `k` nearest names and their cosines, computed here from the index's own vectors."""
    entries = [album.entry(name) for name, *_ in album.index.generations(album.bucket.url)]
    scores = np.stack([entry.vector for entry in entries]) @ normalize_rows(vector[None])[0]
    best = np.argsort(-scores)[:k]
    return [(entries[index].name, float(scores[index])) for index in best]


def test_a_text_finds_what_it_describes(server: Server, album: Album) -> None:
    reply = search(server, text="birthday cake")

    found = [(name, result["score"]) for name, result in zip(names(reply), reply["results"], strict=True)]
    nearest = expected(album, raw_texts("birthday cake")[0], 10)
    assert names(reply)[0] == CAKE
    assert [score for _, score in found] == pytest.approx([score for _, score in nearest], abs=1e-4)
    first, entry = reply["results"][0], album.entry(CAKE)
    assert first["uri"] == entry.uri
    assert first["generation"] == entry.generation
    assert first["content_type"] == "image/png"
    assert first["metadata"] == {}
    assert (reply["model"], reply["space"], reply["notice"]) == ("demo", model().manifest.space, None)


def test_a_link_finds_the_same(server: Server) -> None:
    for query in ("birthday cake", "Köln & <b>", "a" * 500):
        linked = server.get("/search", params={"q": query, "k": 5})
        assert linked.status_code == 200
        assert linked.json() == search(server, text=query, k=5)


@pytest.mark.parametrize("form", [in_base64, data_uri])
def test_a_picture_finds_itself(server: Server, form: Any) -> None:
    reply = search(server, image=form(photos()["chelsea"]), k=3)

    assert names(reply)[0] == "photos/chelsea"
    assert reply["results"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert reply["results"][0]["metadata"] == {"camera": "<b>K1</b>"}


def test_a_picture_by_its_url(server: Server) -> None:
    with web({"/a": photos()["rocket"]}) as site:
        assert names(search(server, image=f"{site}/a", k=1)) == ["photos/rocket"]


def test_the_limits_of_the_results(server: Server) -> None:
    everything = search(server, text="a cat", k=100)
    scores = [result["score"] for result in everything["results"]]

    assert len(scores) == 100
    assert scores == sorted(scores, reverse=True)
    assert len(search(server, text="a cat")["results"]) == 10
    assert names(search(server, text="a cat", k=3)) == names(everything)[:3]
    inside = names(search(server, text="a cat", k=100, prefix="photos/"))
    assert sorted(inside) == sorted(f"photos/{name}" for name in photos())
    assert names(search(server, text="a cat", prefix="photos/c%")) == []
    bound = (scores[0] + scores[1]) / 2
    assert names(search(server, text="a cat", k=100, min_score=bound)) == names(everything)[:1]
    linked = server.get("/search", params={"q": "a cat", "k": "2", "prefix": "photos/", "min_score": "-1"})
    assert names(linked.json()) == inside[:2]


def test_more_like_an_object(server: Server, album: Album) -> None:
    reply = server.get("/similar", params={"uri": album.uri("emoji/cat face.png"), "k": 5}).json()

    assert len(reply["results"]) == 5
    # Copies are like it; it is not in its own company.
    assert set(names(reply)[:4]) == set(ODD)
    assert album.uri("emoji/cat face.png") not in [result["uri"] for result in reply["results"]]
    assert reply["model"] == "demo"


# Each request, what is wrong with it, and the words that help.
BAD = [
    ({}, 400, "query_missing", "`text`, `image` or `uri`"),
    ({"text": " \n"}, 400, "text_empty", "what to look for"),
    ({"text": 5}, 400, "body_invalid", "$.text"),
    ({"text": "a" * 10_001}, 413, "text_too_long", "10,000"),
    ({"text": "a", "k": 0}, 400, "body_invalid", "$.k"),
    ({"text": "a", "k": 101}, 400, "body_invalid", "$.k"),
    ({"text": "a", "k": "10"}, 400, "body_invalid", "$.k"),
    ({"text": "a", "min_score": 2}, 400, "body_invalid", "$.min_score"),
    ({"text": "a", "prefix": "x" * 1025}, 400, "body_invalid", "$.prefix"),
    ({"text": "a", "model": "none"}, 404, "model_unknown", "there is demo"),
    ({"image": "http://169.254.169.254/"}, 400, "url_forbidden", "public"),
    ({"image": "file:///etc/passwd"}, 400, "url_invalid", "`file:`"),
    ({"image": "gs://bucket/cat"}, 400, "bucket_forbidden", "ALLOWED_BUCKETS"),
    ({"image": "????"}, 400, "image_reference_invalid", "base64"),
    ({"image": in_base64(b"%PDF-1.7 ...")}, 422, "image_unsupported", "a PDF"),
]


@pytest.mark.parametrize(("body", "status", "code", "words"), BAD)
def test_what_is_wrong_is_named(server: Server, body: Any, status: int, code: str, words: str) -> None:
    reply = server.post("/search", json=body)

    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/search", 400, "query_missing"),
        ("/search?not=a", 400, "query_missing"),
        ("/search?q=", 400, "query_invalid"),
        ("/search?q=%20", 400, "text_empty"),
        ("/search?q=a&k=ten", 400, "query_invalid"),
        ("/search?q=a&k=1e9", 400, "query_invalid"),
        ("/search?q=a&min_score=nan", 400, "query_invalid"),
        ("/search?q=a&model=none", 404, "model_unknown"),
        ("/similar", 400, "field_missing"),
        ("/similar?uri=", 404, "object_unknown"),
        ("/similar?uri=gs://photos/a", 404, "object_unknown"),
        ("/thumbnail", 400, "field_missing"),
        ("/thumbnail?uri=file:///etc/passwd", 404, "object_unknown"),
        ("/thumbnail?uri=a%00b", 404, "object_unknown"),
        ("/thumbnail?uri=x&size=15", 400, "query_invalid"),
        ("/thumbnail?uri=x&size=1281", 400, "query_invalid"),
        ("/thumbnail?uri=x&size=-1", 400, "query_invalid"),
        ("/thumbnail?uri=x&size=9999999999999999999999", 400, "query_invalid"),
    ],
)
def test_what_is_wrong_in_a_link_is_named(server: Server, path: str, status: int, code: str) -> None:
    reply = server.get(path)

    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("name", [CAKE, "photos/retina", "photos/logo", *ODD])
def test_a_result_carries_its_thumbnail(server: Server, album: Album, name: str) -> None:
    results = search(server, text="a", prefix=name)["results"]
    (link,) = [result["thumbnail"] for result in results if result["uri"] == album.uri(name)]
    reply = server.get(f"{link}&size=100")

    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    with Image.open(io.BytesIO(reply.content)) as small:
        assert max(small.size) == (64 if name.startswith(("emoji", "odd")) else 100)


def test_thumbnails_are_kept_by_generation(server: Server, album: Album) -> None:
    album.add({"changing.png": emoji()[CAKE]})
    uri, generation = quote(album.uri("changing.png"), safe=""), album.entry("changing.png").generation
    exact = server.get(f"/thumbnail?uri={uri}&generation={generation}")
    again = server.get(f"/thumbnail?uri={uri}", headers={"If-None-Match": exact.headers["ETag"]})
    album.add({"changing.png": photos()["coffee"]})
    changed = server.get(f"/thumbnail?uri={uri}&generation={generation}", headers=again.request.headers)

    assert exact.headers["Cache-Control"] == "private, max-age=86400"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Cache-Control"] == "private, no-cache"
    assert changed.status_code == 200
    assert changed.headers["ETag"] != exact.headers["ETag"]
    assert changed.headers["Cache-Control"] == "private, no-cache"
    assert server.get(f"/thumbnail?uri={uri}&size=16").headers["ETag"] != changed.headers["ETag"]


def test_only_what_is_in_the_index_has_a_thumbnail(server: Server, album: Album) -> None:
    secret = Path(album.settings["BUCKET_URL"].removeprefix("file://")).parent / "secret.png"
    secret.write_bytes(picture(kind="PNG"))
    write_object(album.bucket, "not indexed.png", picture(kind="PNG"))
    # As if somebody had put a path into the index: the bucket's code reads nothing outside.
    album.add({"inside.png": emoji()[CAKE]})
    album.change("inside.png", name="../secret.png", generation=secret.stat().st_ctime_ns)

    for name in ("not indexed.png", "../secret.png", "../photos/photos/coffee", f"{'../' * 9}etc/passwd", ""):
        reply = server.get("/thumbnail", params={"uri": album.uri(name)})
        assert reply.status_code == 404, name
        assert "secret" not in reply.text


def test_an_object_that_is_gone_or_no_picture(server: Server, album: Album) -> None:
    album.add({"gone.png": emoji()[CAKE], "text.png": emoji()[CAKE]})
    album.bucket.delete("gone.png")
    generation = write_object(album.bucket, "text.png", b"only words")
    album.change("text.png", generation=generation)

    gone, text = (
        server.get("/thumbnail", params={"uri": album.uri(f"{name}.png")}) for name in ("gone", "text")
    )

    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "object_gone")
    assert (text.status_code, text.json()["error"]["code"]) == (422, "image_unsupported")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [16, 100, 1280])
def test_thumbnails_of_every_format(kind: str, size: int) -> None:
    with Image.open(io.BytesIO(thumbnail_file(picture(kind=kind), size))) as small:
        assert (small.format, small.mode) == ("JPEG", "RGB")
        assert max(small.size) == min(160, size)


def test_thumbnails_are_upright_on_white_and_bare() -> None:
    turned, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret place"
    file, clear, wide = io.BytesIO(), io.BytesIO(), io.BytesIO()
    turned.save(file, "JPEG", exif=exif, comment=b"a secret comment")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(clear, "PNG")
    Image.new("P", (20_000, 2)).save(wide, "PNG")

    upright = thumbnail_file(file.getvalue(), 100)
    with Image.open(io.BytesIO(upright)) as image:
        assert image.size == (20, 40)
    assert b"secret" not in upright
    with Image.open(io.BytesIO(thumbnail_file(clear.getvalue(), 32))) as image:
        assert image.getpixel((16, 16)) == (255, 255, 255)
    with Image.open(io.BytesIO(thumbnail_file(wide.getvalue(), 32))) as image:
        assert image.size == (32, 1)


def test_an_empty_index_and_another_models_say_so(tmp_path: Path) -> None:
    empty = new_album(tmp_path)
    with serving("search", tmp_path / "log", **empty.settings) as server:
        nothing = search(server, text="a cat")
        empty.add({"old.png": emoji()[CAKE]}, space="of-another-model")
        other = search(server, text="a cat")
        old = server.get("/similar", params={"uri": empty.uri("old.png")})

    assert nothing["results"] == other["results"] == []
    assert "empty" in nothing["notice"]
    assert "another model (pictures in it: 1)" in other["notice"]
    assert "functions.backfill" in other["notice"]
    assert (old.status_code, old.json()["model"], old.json()["space"]) == (200, None, "of-another-model")


def test_another_folders_index_says_nothing_of_this_one(album: Album, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with serving("search", tmp_path / "log", **{**album.settings, "BUCKET_URL": empty.as_uri()}) as server:
        reply = search(server, text="a cat")

    assert reply["results"] == []
    assert reply["notice"].startswith("The index is empty: ")


def test_an_index_that_cannot_be_used_is_explained_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "no database").write_bytes(b"x" * 5000)
    settings = {"INDEX_URL": f"sqlite://{tmp_path}/no%20database"}
    with serving("search", tmp_path / "log", **settings) as server:
        reply = server.post("/search", json={"text": "a cat"})

    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "storage_failed")
    reason = f"The index's file {tmp_path}/no database is damaged (file is not a database): delete it"
    assert f"search /search failed: {reason}" in (tmp_path / "log").read_text()
    assert str(tmp_path) not in reply.text
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("path", ["/", "/search", "/search?q=a", "/similar?uri=x"])
def test_a_browser_gets_the_page(server: Server, path: str) -> None:
    reply = server.get(path, headers=HTML)
    again = server.get(path, headers={**HTML, "If-None-Match": reply.headers["ETag"]})
    policy = reply.headers["Content-Security-Policy"]

    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Accept" in reply.headers["Vary"]
    assert again.status_code == 304
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert server.get(path).headers["Content-Type"] == "application/json"
    assert "Accept" in server.get(path).headers["Vary"]


def test_the_gateway_searches_too(tmp_path: Path) -> None:
    album = new_album(tmp_path)
    album.add({CAKE: emoji()[CAKE]})
    with serving("gateway", tmp_path / "log", **album.settings) as server:
        assert names(search(server, text="birthday cake", k=1)) == [CAKE]
        assert server.get("/", headers=HTML).headers["Content-Type"].startswith("text/html")
        assert "gateway" in server.get("/").json()["status"]


def test_objects_of_cloud_storage(tmp_path: Path) -> None:
    album, name = new_album(tmp_path), "holidays/cake & co?.png"
    album.add({CAKE: emoji()[CAKE]})
    with gcs_server.serving() as storage, gcs_server.connected(storage.url, "") as bucket:
        old = write_object(bucket, name, emoji()[CAKE])
        for one in (name, "overwritten.png"):
            album.change(CAKE, bucket=gcs_server.BUCKET, name=one, generation=old)
        settings = {"INDEX_URL": album.settings["INDEX_URL"], "STORAGE_EMULATOR_HOST": storage.url}
        with serving("search", tmp_path / "log", **settings) as server:
            (found,) = search(server, text="cake", prefix="holidays/")["results"]
            small = server.get(found["thumbnail"])
            similar = server.get("/similar", params={"uri": found["uri"]})
            write_object(bucket, name, emoji()["emoji/cat face.png"])
            gone = server.get("/thumbnail", params={"uri": found["uri"]})
            folder = server.get("/thumbnail", params={"uri": album.uri(CAKE)})

    assert (found["uri"], found["generation"]) == (f"gs://{gcs_server.BUCKET}/{name}", old)
    assert (small.status_code, similar.status_code) == (200, 200)
    assert f"gs://{gcs_server.BUCKET}/overwritten.png" in [one["uri"] for one in similar.json()["results"]]
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "object_gone")
    # Not of this deployment: a path on this machine.
    assert (folder.status_code, folder.json()["error"]["code"]) == (404, "object_unknown")


def test_with_a_key_only_the_page_is_open(album: Album, log: Path) -> None:
    with serving("search", log, API_KEY=KEY, **album.settings) as server:
        for path in ("/", "/search?q=a", "/similar?uri=x"):
            assert server.get(path, headers=HTML).status_code == 200
            assert server.get(path).status_code == 401
        thumbnail = f"/thumbnail?uri={quote(album.uri(CAKE), safe='')}"
        assert server.get(thumbnail, headers=HTML).status_code == 401
        assert server.post("/search", json={"text": "a"}, headers=HTML).status_code == 401
        assert server.get("/docs", headers=HTML).status_code == 401
        assert server.get(thumbnail, headers={"X-API-Key": KEY}).status_code == 200
        assert server.get("/search?q=a", headers={"X-API-Key": KEY}).status_code == 200


def test_the_function_describes_itself(server: Server) -> None:
    document = server.get("/openapi.json").json()

    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    parameters = {one["name"]: one for one in document["paths"]["/search"]["get"]["parameters"]}
    filters = {"prefix", "min_score", "after", "before", "label", "content_type"}
    assert set(parameters) == {"q", "uri", "not", "k", "model", "cursor"} | filters
    assert parameters["k"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}
    assert parameters["min_score"]["schema"] == {"type": "number", "minimum": -1.0, "maximum": 1.0}
    assert set(document["paths"]["/"]["get"]["responses"]["200"]["content"]) == {
        "application/json",
        "text/html",
    }
    assert "image/jpeg" in document["paths"]["/thumbnail"]["get"]["responses"]["200"]["content"]
    assert "post" in document["paths"]["/"]


def test_the_log_has_no_query(server: Server) -> None:
    server.get("/search?q=my+secret+birthday")
    server.post("/", json={"text": "my secret birthday"})

    assert "secret" not in server.log.read_text()
