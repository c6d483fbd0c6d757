"""The map of the collection: places of the demo model's emoji, and how often it is made."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.search.projection import MIN_POINTS, project
from tests.support.albums import Album, emoji, new_album
from tests.support.serving import Server, error_code, serving
from tests.support.vectors import model
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Emoji, one of them with a label."""
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add(emoji(120))
    made.change("emoji/cat face.png", labels={"cat": 0.9, "animal": 0.2}, label_set="test")
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("search", tmp_path_factory.mktemp("map") / "log", **album.settings) as running:
        yield running


def kept_neighbors(points: np.ndarray, vectors: np.ndarray) -> float:
    """The share of the 10 nearest vectors that are among the 10 nearest points."""
    distances = np.square(points[:, None] - points).sum(axis=2)
    scores = vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    np.fill_diagonal(scores, -np.inf)
    near, alike = np.argsort(distances)[:, :10], np.argsort(-scores)[:, :10]
    return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(near, alike, strict=True)]))


def test_it_has_every_object_near_its_like(server: Server, album: Album) -> None:
    reply = server.get("/map")

    body = reply.json()
    assert reply.status_code == 200
    assert body["count"] == len(body["points"]) == len(emoji(120))
    assert (body["space"], body["notice"]) == (model().manifest.space, None)
    points = np.array([[point["x"], point["y"]] for point in body["points"]])
    assert np.abs(points).max() == pytest.approx(1, abs=1e-4)
    names = [point["uri"].removeprefix(album.bucket.url) for point in body["points"]]
    assert sorted(names) == sorted(emoji(120))
    vectors = np.stack([album.entry(name).vector for name in names])
    assert kept_neighbors(points, vectors) > 0.4
    cat = body["points"][names.index("emoji/cat face.png")]
    assert cat["label"] == "cat"
    assert cat["generation"] == album.entry("emoji/cat face.png").generation
    assert server.get(cat["thumbnail"] + "&size=64").headers["Content-Type"] == "image/jpeg"
    assert {point["label"] for point in body["points"]} == {"cat", None}


@pytest.mark.full
def test_it_is_made_once_and_again_when_the_index_has_changed(server: Server, album: Album) -> None:
    first = server.get("/map").json()
    assert server.get("/map").json() == first

    album.add({"new.png": emoji()["emoji/fire engine.png"]})
    eventually(lambda: len(server.get("/map").json()["points"]) == len(first["points"]) + 1)


def test_one_is_made_at_a_time(tmp_path: Path, album: Album) -> None:
    with serving("search", tmp_path / "log", **album.settings) as server, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: server.get("/map"), range(8)))

    assert {reply.status_code for reply in replies} <= {200, 503}
    made = [reply for reply in replies if reply.status_code == 200]
    assert made
    for reply in replies:
        if reply.status_code == 503:
            assert error_code(reply) == "map_pending"
            assert reply.headers["Retry-After"] == "2"
        else:
            assert reply.json() == made[0].json()


def test_an_empty_index_has_an_empty_map(tmp_path: Path) -> None:
    with serving("search", tmp_path / "log", **new_album(tmp_path).settings) as server:
        body = server.get("/map").json()

    assert body["points"] == []
    assert "empty" in body["notice"]


@pytest.mark.parametrize("count", [1, 2, 3, MIN_POINTS - 1, MIN_POINTS, 40])
def test_few_vectors_have_places_too(count: int) -> None:
    vectors = np.random.default_rng(count).normal(size=(count, 16)).astype(np.float32)

    points = project(vectors)

    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert np.abs(points).max() <= 1 + 1e-6
    assert np.array_equal(points, project(vectors))


def test_copies_lie_on_each_other() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    vectors[30:] = vectors[:30]

    points = project(vectors)

    assert np.isfinite(points).all()
    assert np.linalg.norm(points[30:] - points[:30], axis=1).max() < 0.05
    assert np.isfinite(project(np.ones((50, 16), np.float32))).all()
