"""Whether anything is close: on the demo's emoji, in crowds, and while a collection grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.index.types import Entry
from clip_embeddings.search import samples
from clip_embeddings.search.closeness import MIN_SAMPLE, Noise, measure_noise
from clip_embeddings.search.samples import SAMPLE_SIZE, Samples
from clip_embeddings.storage.types import TransientError
from tests.support.albums import Album, emoji, new_album
from tests.support.entries import direction, entry
from tests.support.indexes import opened_index
from tests.support.serving import serving
from tests.support.threads import run_threads
from tests.support.vectors import raw_texts
from tests.support.waiting import eventually

# Queries that no emoji answers.
NONSENSE = """qwertz uiop|tax return form 1040|asdf ghjkl|lorem ipsum dolor sit amet|SELECT * FROM users
the committee approved the minutes|quarterly revenue guidance|zzzzzz|404 not found|1234567890|blah blah
please find attached the invoice|theory of relativity|def main(argv)|mortgage interest rate|because of the
tomorrow at nine|jurisdiction and venue|hexadecimal|constitutional amendment|the quick sort algorithm
warranty void if removed|update your password|terms and conditions|macroeconomic policy|foobar baz
kubernetes ingress|photosynthesis equation|bureaucracy|xkcd plugh""".replace("\n", "|").split("|")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add(emoji())
    return made


def test_what_is_there_is_close_and_nonsense_is_not(album: Album) -> None:
    """The error rates of docs/photos-and-index.md, with room for another build of the model."""
    entries = list(album.index.entries())
    rows = np.stack([one.vector for one in entries])
    names = [one.name.removeprefix("emoji/").removesuffix(".png") for one in entries]

    def close(texts: Sequence[str]) -> list[bool]:
        vectors = normalize_rows(np.concatenate([raw_texts(text) for text in texts]))
        noises = [measure_noise(vector, rows) for vector in vectors]
        return [bool(max(rows @ v) >= n.threshold) for v, n in zip(vectors, noises, strict=True) if n]

    answered = close([name for name in names if not name.startswith("flag:")][::3])
    meaningless = close(NONSENSE)

    assert np.mean(answered) > 0.95
    assert np.mean(meaningless) < 0.2


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
def test_a_crowd_of_answers_still_stands_out(share: float) -> None:
    """Photos of cats in a collection of which they are a large part."""
    random = np.random.default_rng(1)
    scores = random.normal(0.18, 0.027, 1000)
    scores[: int(1000 * share)] = random.normal(0.30, 0.02, int(1000 * share))
    noise = _noise_of(scores)

    assert scores.max() > noise.threshold
    assert noise.threshold > 0.18 + 3 * 0.027


def test_the_best_of_pure_noise_is_seldom_close() -> None:
    random = np.random.default_rng(2)
    alarms = []
    for size in (MIN_SAMPLE, 300, 1000):
        for _ in range(200):
            scores = random.normal(0.18, 0.027, size)
            alarms.append(scores.max() >= _noise_of(scores).threshold)

    assert np.mean(alarms) < 0.15


def test_a_copy_is_close_where_everything_looks_alike() -> None:
    random = np.random.default_rng(3)
    noise = _noise_of(np.clip(random.normal(0.9, 0.05, 500), -1, 1))

    assert noise.threshold == pytest.approx(0.95, abs=0.01)
    assert noise.closeness(1.0) == pytest.approx(1.0)
    assert measure_noise(np.ones(4, np.float32) / 2, np.full((500, 4), 0.5, np.float32)) is not None


def test_bars_are_absolute() -> None:
    noise = Noise(0.2, 0.3)

    assert [noise.closeness(score) for score in (-1, 0.2, 0.25, 0.3, 0.4, 1)] == pytest.approx(
        [0, 0, 0.25, 0.5, 1, 1]
    )


def test_a_small_collection_has_no_threshold(tmp_path: Path, log: Path) -> None:
    album = new_album(tmp_path)
    pictures = emoji()
    album.add(dict(list(pictures.items())[: MIN_SAMPLE - 1]))
    with serving("search", log, **album.settings) as server:
        small = server.get("/search?q=qwertz+uiop").json()
        album.add(pictures)

        def grown() -> bool:
            return server.get("/search?q=qwertz+uiop").json()["threshold"] is not None

        eventually(grown, 30)
        reply = server.get("/search?q=qwertz+uiop").json()

    assert (small["threshold"], small["nothing_close"]) == (None, False)
    for result in small["results"]:
        assert result["closeness"] == pytest.approx(max(0, result["score"]), abs=1e-3)
    assert reply["nothing_close"]


class CountingIndex:
    """An index of vectors in memory that counts how often it is sampled."""

    def __init__(self, size: int) -> None:
        self.size, self.samples = size, 0

    def count(self, space: str | None = None) -> int:
        return self.size

    def replacements(self) -> int:
        return 0

    def sample(self, space: str, count: int, *, bucket: str | None = None) -> list[Entry]:
        self.samples += 1
        return [
            entry(f"n{n}", space=space, labels={"even": 0.5} if n % 2 == 0 else {})
            for n in range(min(self.size, count))
        ]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are counted at every search."""
    for name in ("CHECK_SECONDS", "CHECK_SECONDS_LARGE"):
        monkeypatch.setattr(samples, name, 0.0)
    monkeypatch.setattr(samples, "TIME_SHARE", 1e6)


def test_a_sample_is_taken_once_and_again_when_the_index_grows(quick: None) -> None:
    index = CountingIndex(600)
    kept = Samples(index, None)  # type: ignore[arg-type]

    first = kept.get("s")
    assert first is not None
    assert first.vectors.shape == (600, 16)
    assert (first.labels, first.is_everything) == ({"even": 300}, True)
    index.size = 640
    assert kept.get("s") is first
    index.size = 5000
    second = kept.get("s")
    assert second is not None
    assert (len(second.vectors), second.is_everything) == (SAMPLE_SIZE, False)
    assert index.samples == 2
    index.size = 0
    assert kept.get("s") is None


def test_between_two_checks_nothing_is_asked() -> None:
    index = CountingIndex(100)
    kept = Samples(index, None)  # type: ignore[arg-type]
    first = kept.get("s")
    index.size = 100_000

    assert all(kept.get("s") is first for _ in range(100))
    assert index.samples == 1


def test_few_samples_are_kept() -> None:
    index = CountingIndex(60)
    kept = Samples(index, None)  # type: ignore[arg-type]
    for number in range(20):
        assert kept.get(f"space {number}") is not None

    assert len(kept._kept) == samples.MAX_SPACES


def test_threads_share_one_sample() -> None:
    index = CountingIndex(60)
    kept = Samples(index, None)  # type: ignore[arg-type]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(kept.get("s"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(one) for one in found}) == index.samples == 1


class UnreachableIndex(CountingIndex):
    """An index whose server does not answer, which is found out after a while."""

    def count(self, space: str | None = None) -> int:
        self.samples += 1
        time.sleep(0.05)
        raise TransientError("no answer")


def test_threads_do_not_wait_one_after_the_other_for_an_index_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "CHECK_SECONDS", 1000.0)
    index = UnreachableIndex(60)
    kept = Samples(index, None)  # type: ignore[arg-type]
    run_threads([lambda: kept.get("s")] * 16)
    asked = index.samples
    kept._index = CountingIndex(60)  # type: ignore[assignment]
    kept._kept["s"].next_check = 0.0
    recovered = kept.get("s")

    assert asked == 1
    assert recovered is not None
    assert len(recovered.vectors) == 60


def test_a_sample_of_a_million_rows_is_cheap(tmp_path: Path) -> None:
    """The real SQLite index, of as many rows as take no time to write: a second get asks nothing."""
    with opened_index(f"sqlite://{tmp_path}/index.sqlite") as index:
        index.upsert([entry(f"n{n}", vector=direction(str(n))) for n in range(2000)])
        kept = Samples(index, None)
        sample = kept.get("s")
        started = time.process_time()
        for _ in range(1000):
            assert kept.get("s") is sample
        spent = time.process_time() - started

    assert sample is not None
    assert len(sample.vectors) == SAMPLE_SIZE
    assert spent < 1


def _noise_of(scores: np.ndarray) -> Noise:
    """The noise of a query that has these scores."""
    sample = np.column_stack([scores, np.sqrt(1 - scores**2)]).astype(np.float32)
    noise = measure_noise(np.array([1, 0], np.float32), sample)
    assert noise is not None
    return noise
