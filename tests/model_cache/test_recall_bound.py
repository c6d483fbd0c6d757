"""`bake --pairs`: int8 only where search on pairs of pictures and captions stays as good."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from clip_embeddings.engine.manifest import load_manifest
from model_cache.baking.recall_bound import decide
from tests.support.baking.command import Run
from tests.support.baking.tiny import Tiny
from tests.support.photographs import photos


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A file of real photos with their names as captions, and one that is absent."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [("image", "caption"), ("absent.png", "nothing")]
    for name, data in photos().items():
        (folder / name).write_bytes(data)
        rows.append((name, f"a photo of a {name}"))
    path = folder / "captions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.full
def test_a_bake_with_pairs_measures_r_at_1(run: Run, tiny: Tiny, pairs: Path, tmp_path: Path) -> None:
    outcome = run(*tiny.arguments, "--pairs", pairs, "--max-recall-loss", 100, "--out", tmp_path / "out")

    assert outcome.status == 0, outcome.err
    assert "left out: absent.png" in outcome.err
    for tower in load_manifest(tmp_path / "out", ("text", "image")).towers.values():
        assert tower.precision == "int8"
        assert tower.parity is not None
        reason = r"its cosine .*; R@1 on 12 captions and 12 pictures drops by -?\d+\.\d\d points"
        assert re.fullmatch(reason, tower.parity["reason"])
    files = ["image.data", "image.onnx", "manifest.json", "text.data", "text.onnx", "tokenizer.bpe"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


@pytest.mark.parametrize(
    ("both", "image", "text", "taken"),
    [
        (0.5, 0.5, 0.5, ("int8", "int8")),
        (-1.0, 0.0, 0.0, ("int8", "int8")),
        # The image tower costs most.
        (0.51, 0.3, 0.2, ("fp32", "int8")),
        (2.0, 1.0, 0.4, ("int8", "fp32")),
        (2.0, 1.0, 0.6, ("fp32", "fp32")),
    ],
)
def test_the_towers_whose_int8_loses_no_more_than_allowed_are_int8(
    both: float, image: float, text: float, taken: tuple[str, str]
) -> None:
    losses = {("int8", "int8"): both, ("fp32", "int8"): image, ("int8", "fp32"): text}
    by_cosine = {"image": ("int8", "its cosine is good"), "text": ("int8", "its cosine is good")}

    chosen = decide(losses, 0.5, by_cosine, "9 captions and 9 pictures")

    assert (chosen["text"][0], chosen["image"][0]) == taken
    if taken == ("fp32", "fp32"):
        reason = "because int8 loses 2.00 points of R@1 on 9 captions and 9 pictures, more than 0.5"
        assert chosen["text"][1] == chosen["image"][1] == reason


def test_a_tower_that_the_cosine_refuses_stays_float32() -> None:
    by_cosine = {"text": ("fp32", "because int8 is too coarse here"), "image": ("int8", "its cosine is good")}

    chosen = decide({("fp32", "int8"): 0.0}, 0.5, by_cosine, "9 captions and 9 pictures")

    assert chosen["text"] == by_cosine["text"]
    assert chosen["image"][0] == "int8"


def test_pairs_that_cannot_be_read_end_a_bake_before_the_model_is_loaded(
    run: Run, tiny: Tiny, tmp_path: Path
) -> None:
    outcome = run(*tiny.arguments, "--pairs", tmp_path / "absent.csv", "--out", tmp_path / "out")

    assert outcome.status == 2
    assert "absent.csv cannot be read" in outcome.sentence
    assert not (tmp_path / "out").exists()


def test_pairs_need_both_towers_and_the_choice(run: Run, tiny: Tiny, pairs: Path, tmp_path: Path) -> None:
    one_tower = run(*tiny.arguments, "--pairs", pairs, "--towers", "text", "--out", tmp_path / "out")

    assert "--pairs needs both towers" in one_tower.sentence
    with pytest.raises(SystemExit):
        run(*tiny.arguments, "--pairs", pairs, "--precision", "int8")
