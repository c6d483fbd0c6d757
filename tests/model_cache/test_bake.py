"""What a bake writes and prints."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.engine.manifest import ModelError, fingerprint, load_manifest, sha256_of
from clip_embeddings.engine.model import load_model
from clip_embeddings.engine.scheduler import Scheduler
from model_cache import bake
from model_cache.baking import parity, parity_samples
from model_cache.baking.arguments import parse_arguments
from model_cache.baking.progress import step
from model_cache.baking.tokenizer_file import clip_library_file
from model_cache.baking.torch_setup import import_open_clip
from tests.support.baking.command import Outcome, Run
from tests.support.baking.tiny import Tiny, engine_images, engine_texts, min_cosine, texts

TABLE_ROW = re.compile(
    r"^(text|image) +(fp32|int8) +(0\.\d{7}|1\.0{7}) +(0\.\d{7}|1\.0{7})( +[\d.]+){3}(  taken)?$"
)


def rows(out: str) -> dict[tuple[str, str], bool]:
    """Whether each (tower, precision) in the printed table is marked as taken."""
    matches = [TABLE_ROW.match(line) for line in out.splitlines()]
    return {(match[1], match[2]): bool(match[6]) for match in matches if match}


TEXT_FILES = ["text.data", "text.onnx", "tokenizer.bpe"]
IMAGE_FILES = ["image.data", "image.onnx"]


def test_writes_the_two_towers_and_nothing_else(baked: Path) -> None:
    assert sorted(path.name for path in baked.iterdir()) == [*IMAGE_FILES, "manifest.json", *TEXT_FILES]
    assert [path.name for path in baked.parent.iterdir()] == ["tiny"]


def test_prints_the_figures_and_how_to_serve_the_model(cli_bake: tuple[Outcome, Path]) -> None:
    outcome, folder = cli_bake

    assert rows(outcome.out) == {("text", "fp32"): True, ("image", "fp32"): True}
    assert outcome.out.splitlines()[-1] == f"baked {folder}: serve it with MODEL={folder}"


def test_progress_in_a_pipe_has_no_carriage_returns(cli_bake: tuple[Outcome, Path]) -> None:
    lines = cli_bake[0].err.splitlines()

    assert all(line.startswith("  ") for line in lines)
    assert "  text: exporting ..." in lines
    assert re.fullmatch(r"  image: float32 \d+\.\d s", lines[-1])
    assert "\r" not in cli_bake[0].err


def test_progress_on_a_terminal_stays_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    with step("works"):
        pass
    with pytest.raises(KeyboardInterrupt), step("stops"):
        raise KeyboardInterrupt

    assert re.fullmatch(r"  works \.\.\. 0\.\d s\n  stops \.\.\.\n", capsys.readouterr().err)


def test_manifest_describes_the_model(baked: Path, tiny: Tiny) -> None:
    manifest = load_manifest(baked, ["text", "image"])

    assert (manifest.name, manifest.architecture, manifest.pretrained) == ("tiny", "tiny", "tiny.pt")
    assert (manifest.dimensions, manifest.normalize, manifest.quick_gelu) == (32, True, False)
    assert re.fullmatch("[0-9a-f]{16}", manifest.space)
    tools = ("torch", "open_clip_torch", "onnx", "onnxruntime", "tokenizers", "pillow")
    assert manifest.tools == {tool: version(tool) for tool in tools}
    text, preprocess = manifest.towers["text"].text, manifest.towers["image"].preprocess
    assert text is not None
    assert preprocess is not None
    assert (text.context_length, text.trim, text.clean) == (77, True, "lower")
    assert (text.start_id, text.end_id, text.pad_id) == (49406, 49407, 0)
    expected = tiny.model.visual.preprocess_cfg
    assert preprocess.size == (32, 32)
    assert (preprocess.mean, preprocess.std) == (expected["mean"], expected["std"])
    assert (preprocess.interpolation, preprocess.resize_mode) == ("bicubic", "shortest")


def test_manifest_lists_every_file_with_its_sha256(baked: Path) -> None:
    towers = load_manifest(baked).towers

    files = [file for tower in towers.values() for file in tower.files]

    assert {file.path: file.sha256 for file in files} == {
        path.name: sha256_of(path) for path in baked.iterdir() if path.name != "manifest.json"
    }
    assert [towers["text"].files[0].path, towers["image"].files[0].path] == ["text.onnx", "image.onnx"]
    assert all((baked / file.path).stat().st_size == file.bytes for file in files)
    fingerprints = {tower.fingerprint for tower in towers.values()}
    assert len(fingerprints) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", fingerprint) for fingerprint in fingerprints)


def test_the_form_of_the_tokenizers_file_changes_no_fingerprint(baked: Path) -> None:
    """It is that of earlier versions, which baked tokenizer.json: vectors in an index stay valid."""
    text = load_manifest(baked).towers["text"]
    library_file = clip_library_file(import_open_clip().SimpleTokenizer())

    graph, weights, _ = text.files
    hashes = (graph.sha256, weights.sha256, hashlib.sha256(library_file.encode()).hexdigest())
    assert text.fingerprint == fingerprint(text.precision, text.text, *hashes)


def test_manifest_keeps_the_figures(baked: Path) -> None:
    for tower in load_manifest(baked).towers.values():
        assert tower.parity is not None
        assert tower.parity.keys() == {"fp32", "reason"}
        assert tower.parity["fp32"]["min_cosine"] >= 0.99999
        assert tower.parity["fp32"]["items"] == (204 if tower.name == "text" else 50)


@pytest.mark.parametrize("tower", ["text", "image"])
def test_the_engine_reproduces_the_canary(baked: Path, tower: str) -> None:
    model = load_model(baked, [tower], scheduler=Scheduler(2, 0))

    model.tower(tower).get().canary.get()

    assert len(model.manifest.towers[tower].canary.vector) == 32


@pytest.mark.full
def test_one_tower_alone(run: Run, tiny: Tiny, baked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"

    outcome = run(*tiny.arguments, "--towers", "text", "--precision", "int8", "--out", folder)

    assert outcome.status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", *TEXT_FILES]
    assert rows(outcome.out) == {("text", "fp32"): False, ("text", "int8"): True}
    manifest, full_manifest = load_manifest(folder, ["text"]), load_manifest(baked)
    assert manifest.space == full_manifest.space
    assert list(manifest.towers) == ["text"]
    assert manifest.towers["text"].precision == "int8"
    assert manifest.towers["text"].fingerprint != full_manifest.towers["text"].fingerprint
    # Most of the file is the token table, which is quantized too.
    assert (folder / "text.data").stat().st_size < 0.35 * (baked / "text.data").stat().st_size
    with pytest.raises(ModelError, match="has no image tower"):
        load_manifest(folder, ["image"])
    captions = texts()[-9:]
    vectors = engine_texts(folder, captions)
    assert min_cosine(vectors, engine_texts(baked, captions)) > 0.99
    alone = np.concatenate([engine_texts(folder, [caption]) for caption in captions])
    assert np.abs(vectors - alone).max() <= 1e-5


@pytest.mark.parametrize(
    ("mean", "chosen", "reason"),
    [
        (0.5, "int8", "its cosine to PyTorch is 0.9"),
        pytest.param(
            *(1.1, "fp32", "because int8 is too coarse here: its cosine to PyTorch is 0.9"),
            marks=pytest.mark.full,
        ),
    ],
)
def test_auto_takes_int8_where_it_is_close_enough(
    run: Run,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mean: float,
    chosen: str,
    reason: str,
) -> None:
    monkeypatch.setattr(parity, "INT8_MEAN", mean)
    monkeypatch.setattr(parity, "INT8_MINIMUM", min(mean, 0.9))
    # The files of an older model must be replaced or removed; other files stay.
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "text.onnx").write_text("old")
    (folder / "notes.txt").write_text("mine")

    outcome = run(*tiny.arguments, "--towers", "image", "--out", folder)

    assert outcome.status == 0
    tower = load_manifest(folder, ["image"]).towers["image"]
    assert tower.parity is not None
    assert tower.precision == chosen
    assert tower.parity["reason"].startswith(reason)
    assert f"  image: {chosen}, {reason}" in outcome.out
    assert rows(outcome.out)[("image", chosen)]
    assert tower.parity.keys() == {"fp32", "int8", "reason"}
    assert sorted(path.name for path in folder.iterdir()) == [*IMAGE_FILES, "manifest.json", "notes.txt"]
    load_model(folder, ["image"], scheduler=Scheduler(2, 0)).image.get().canary.get()
    images = parity_samples.images()[:9]
    alone = np.concatenate([engine_images(folder, [image]) for image in images])
    assert np.abs(engine_images(folder, images) - alone).max() <= 1e-5


@pytest.mark.parametrize(
    ("mean", "minimum", "accepted"),
    [(0.995, 0.99, True), (0.9949, 0.99, False), (0.999, 0.9899, False), (float("nan"), 0.99, False)],
)
def test_auto_takes_int8_from_these_cosines_on(mean: float, minimum: float, accepted: bool) -> None:
    figures = parity.Parity(50, minimum, mean, 1.0, 1.0, 1.0)

    assert figures.passes("int8") is accepted
    assert parity.choose_precision("auto", {"int8": figures})[0] == ("int8" if accepted else "fp32")


@pytest.mark.parametrize(("minimum", "accepted"), [(0.99999, True), (0.999989, False), (float("nan"), False)])
def test_float32_is_accepted_from_this_cosine_on(minimum: float, accepted: bool) -> None:
    assert parity.Parity(50, minimum, 1.0, 1.0, 1.0, 1.0).passes("fp32") is accepted


def test_list_marks_quick_gelu_models(run: Run) -> None:
    outcome = run("--list", "all")

    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert "ViT-B-32/laion400m_e32  (quick-GELU)" in lines
    assert "ViT-B-32/laion2b_s34b_b79k" in lines
    assert len(lines) > 100


def test_defaults() -> None:
    options = parse_arguments([])

    assert (options.name, options.precision) == ("ViT-B-32/laion400m_e32", "auto")
    assert (options.towers, options.quick_gelu, options.out) == (None, None, None)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        bake.main(["--help"])

    printed = capsys.readouterr().out
    for option in (
        "--checkpoint",
        "--config",
        "--precision",
        "--towers",
        "--out",
        "--list",
        "--no-quick-gelu",
    ):
        assert option in printed
    assert "ViT-B-32/laion400m_e32" in printed


def test_the_manifest_is_json_of_format_1(baked: Path) -> None:
    assert json.loads((baked / "manifest.json").read_text())["format"] == 1
