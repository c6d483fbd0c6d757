"""Bakes that fail: one sentence, exit status 2, and no file changed."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clip_embeddings.engine.manifest import ModelError, load_manifest
from clip_embeddings.engine.model import load_model
from clip_embeddings.engine.scheduler import Scheduler
from model_cache.baking import onnx_export
from model_cache.baking.catalogue import ModelSource
from model_cache.baking.errors import BakeError
from model_cache.baking.loaders import registry
from model_cache.baking.output import atomic_folder
from tests.support.baking.command import Outcome, Run, command_line
from tests.support.baking.hub import hub_environment
from tests.support.baking.tiny import Tiny, make
from tests.support.serving import ROOT, environment, free_port


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, time and size of every file below `folder`: they change when it is written or replaced."""
    stats = {path: path.stat() for path in folder.rglob("*") if not path.is_dir()}
    folders = [f"{path.relative_to(folder)}/" for path in folder.rglob("*") if path.is_dir()]
    return {
        str(path.relative_to(folder)): (s.st_ino, s.st_mtime_ns, s.st_size) for path, s in stats.items()
    } | dict.fromkeys(folders, (0, 0, 0))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with the files of an artifact."""
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    for name in ("text.onnx", "text.data", "image.onnx", "image.data", "tokenizer.json", "manifest.json"):
        (folder / name).write_text(f"old {name}")
    return folder


def failure(run: Run, out: Path, *arguments: object) -> str:
    """The error sentence of a bake over an artifact, after one into a new folder has failed likewise."""
    before = snapshot(out.parent)
    outcomes = [run(*arguments, "--out", folder) for folder in (out, out.parent / "fresh")]
    assert [outcome.status for outcome in outcomes] == [2, 2]
    assert snapshot(out.parent) == before
    return outcomes[0].sentence


def test_unknown_architecture_gets_a_suggestion(run: Run, out: Path) -> None:
    sentence = failure(run, out, "ViT-B32/laion400m_e32")

    assert "Unknown architecture 'ViT-B32'. Did you mean ViT-B-32" in sentence
    assert "--list" in sentence


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("clip-vit-base-patch-32", "clip-vit-base-patch32"),
        ("Clip-ViT-B32", "clip-ViT-B-32"),
        ("siglip-base", "siglip-base-patch16"),
        ("mobileclip-s2", "mobileclip-s1"),
        # Nothing of the catalogue is close.
        ("ViT-B32", "ViT-B-32"),
    ],
)
def test_a_misspelt_public_name_gets_one_of_the_catalogue(name: str, suggested: str) -> None:
    with pytest.raises(BakeError, match=f"Did you mean {suggested}( or|\\?)"):
        registry.load(ModelSource("open_clip", name))


@pytest.mark.parametrize(
    "name", ["", "hf-hub:team/model", "local-dir:/nowhere", "../../etc", "ViT-B-32:openai"]
)
def test_names_that_open_clip_would_interpret_otherwise(run: Run, out: Path, name: str) -> None:
    assert "Unknown architecture" in failure(run, out, name)


def test_unknown_tag_gets_a_suggestion(run: Run, out: Path) -> None:
    sentence = failure(run, out, "ViT-B-32/laion400m_e3")

    assert "Unknown pretrained tag 'laion400m_e3' for ViT-B-32. Did you mean laion400m_e3" in sentence
    assert "Known tags: openai, " in sentence


def test_an_architecture_without_tag_or_checkpoint(run: Run, out: Path) -> None:
    sentence = failure(run, out, "ViT-B-32")

    assert "use ViT-B-32/PRETRAINED, or pass --checkpoint FILE" in sentence


def test_missing_checkpoint(run: Run, out: Path, tiny: Tiny, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pt"

    sentence = failure(run, out, "tiny", "--config", tiny.config, "--checkpoint", missing)

    assert sentence == f"bake: No checkpoint at {missing}."


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("content", [b"", b"just some text\n", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_a_file_that_is_not_a_checkpoint(
    run: Run, out: Path, tiny: Tiny, tmp_path: Path, suffix: str, content: bytes
) -> None:
    file = tmp_path / f"notes{suffix}"
    file.write_bytes(content)

    sentence = failure(run, out, "tiny", "--config", tiny.config, "--checkpoint", file)

    assert f"{file.name} is not a checkpoint" in sentence


def test_a_truncated_checkpoint(run: Run, out: Path, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "cut.pt"
    file.write_bytes(tiny.checkpoint.read_bytes()[:100_000])

    assert "cut.pt is not a checkpoint" in failure(
        run, out, "tiny", "--config", tiny.config, "--checkpoint", file
    )


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, {"weight": torch.ones(2)}])
def test_a_pickle_of_something_else(run: Run, out: Path, tiny: Tiny, tmp_path: Path, content: object) -> None:
    file = tmp_path / "other.pt"
    torch.save(content, file)

    sentence = failure(run, out, "tiny", "--config", tiny.config, "--checkpoint", file)

    assert "other.pt is not a checkpoint" in sentence


@pytest.mark.parametrize(
    ("vision", "text"),
    [({"width": 32}, {}), ({}, {"layers": 3}), ({"image_size": 64}, {}), ({"layers": 2}, {})],
)
def test_a_checkpoint_of_another_architecture(
    run: Run, out: Path, tiny: Tiny, tmp_path: Path, vision: dict[str, int], text: dict[str, int]
) -> None:
    different = make(tmp_path, "other", vision, text)

    sentence = failure(run, out, "tiny", "--config", tiny.config, "--checkpoint", different.checkpoint)

    assert "other.pt is not a checkpoint of tiny: " in sentence


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{not json", "cannot be read: Expecting"),
        ("", "cannot be read: Expecting"),
        ("[]", "lacks embed_dim, text_cfg, vision_cfg."),
        ('"text"', "lacks embed_dim, text_cfg, vision_cfg."),
        ('{"embed_dim": 8, "text_cfg": {}}', "lacks vision_cfg."),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_read(
    run: Run, out: Path, tiny: Tiny, tmp_path: Path, content: str | None, complaint: str
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content)

    sentence = failure(run, out, "mine", "--config", config, "--checkpoint", tiny.checkpoint)

    assert f"The configuration {config} {complaint}" in sentence


@pytest.mark.parametrize(
    "change",
    [
        {"vision_cfg": {"wdith": 64}},
        {"vision_cfg": {"width": "wide"}},
        {"text_cfg": {"pool_type": "middle"}},
        {"embed_dim": None},
        {"text_cfg": []},
        {"flavor": "odd"},
    ],
)
def test_a_configuration_that_open_clip_cannot_build(
    run: Run, out: Path, tiny: Tiny, tmp_path: Path, change: dict[str, object]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(tiny.config.read_text()) | change))

    sentence = failure(run, out, "mine", "--config", config, "--checkpoint", tiny.checkpoint)

    assert "open_clip cannot build mine: " in sentence


def test_a_vocabulary_smaller_than_the_tokenizers(run: Run, out: Path, tmp_path: Path) -> None:
    model = make(tmp_path, "few-words", text={"vocab_size": 1000})

    sentence = failure(run, out, *model.arguments)

    assert "has 1,000 token vectors, its tokenizer makes 49,408 different tokens." in sentence


def test_a_tokenizer_that_cannot_be_reached(run: Run, out: Path, tmp_path: Path) -> None:
    model = make(tmp_path, "foreign", text={"hf_tokenizer_name": "team/tokenizer"})

    sentence = failure(run, out, *model.arguments)

    assert "The tokenizer of foreign cannot be loaded: " in sentence
    assert "Check the network" in sentence


def test_a_package_that_is_not_installed(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError(name="torchvision")

    monkeypatch.setattr("model_cache.baking.loaders.open_clip.import_open_clip", missing)

    sentence = failure(run, out)

    assert "cannot import torchvision: `pip install -r model_cache/requirements.txt`" in sentence


def test_the_target_is_a_file(run: Run, out: Path, tiny: Tiny) -> None:
    file = out / "manifest.json"

    outcome = run(*tiny.arguments, "--out", file)

    assert (outcome.status, outcome.sentence) == (2, f"bake: {file} is a file: choose another --out.")


@pytest.mark.full
def test_an_export_that_is_not_the_model(
    run: Run, out: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skewed(encode: object, items: object) -> object:
        return torch.nn.functional.normalize(torch.ones(50, 32)).numpy()

    monkeypatch.setattr("model_cache.baking.parity.reference_vectors", skewed)
    before = snapshot(out.parent)

    outcome = run(*tiny.arguments, "--towers", "image", "--out", out)

    assert outcome.status == 2
    assert "The exported image tower is not the model: its lowest cosine to PyTorch is " in outcome.sentence
    assert snapshot(out.parent) == before


@pytest.mark.full
def test_a_hub_that_cannot_be_reached(out: Path, tmp_path: Path) -> None:
    url, before = f"http://127.0.0.1:{free_port()}", snapshot(out.parent)
    started = time.monotonic()

    outcome = command_line("--out", out, **hub_environment(url, tmp_path / "cache"))

    assert outcome.status == 2
    path = "timm/vit_base_patch32_clip_224.laion400m_e32/resolve/main/open_clip_model.safetensors"
    assert f"ViT-B-32/laion400m_e32 could not be downloaded from {url}/{path}: Connection" in outcome.sentence
    assert "pass a local file with --checkpoint, which works offline." in outcome.sentence
    assert snapshot(out.parent) == before
    # Most of it is importing torch; huggingface_hub's own retries alone would take 46 seconds.
    assert time.monotonic() - started < 30


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit files to `size` bytes: writing more fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [100_000, pytest.param(5_000_000, marks=pytest.mark.full)])
def test_a_full_disk(run: Run, out: Path, tiny: Tiny, size: int) -> None:
    before = snapshot(out.parent)

    with largest_file(size):
        outcome = run(*tiny.arguments, "--towers", "text", "--out", out)

    assert outcome.status == 2
    assert outcome.sentence.startswith("bake: File too large: ")
    assert snapshot(out.parent) == before


@pytest.mark.full
def test_a_disk_that_fills_up_under_onnx_runtime(baked: Path, tmp_path: Path) -> None:
    with largest_file(1_000), pytest.raises(BakeError, match="Is there room on the disk"):
        onnx_export.optimize(baked / "image.onnx", tmp_path / "image.onnx")


@pytest.mark.parametrize("moves", [0, *(pytest.param(moves, marks=pytest.mark.full) for moves in (1, 2, 3))])
def test_a_bake_interrupted_while_its_files_move(
    baked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Old and new files never load together: the old manifest is deleted first, the new one moves last."""
    target = tmp_path / "model"
    moved: list[Path] = []
    shutil.copytree(baked, target)
    replace = Path.replace

    def stopping(self: Path, to: Path) -> Path:
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(to)
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", stopping)

    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:  # noqa: PT012
        for path in baked.iterdir():
            shutil.copy(path, folder)

    with pytest.raises(ModelError, match=r"manifest\.json is missing"):
        load_manifest(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def bake_and_signal(tiny: Tiny, folder: Path, number: signal.Signals) -> Outcome:
    """Bake into `folder` in a process of its own, which gets the signal `number` while it exports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "model_cache.bake", *tiny.arguments, "--out", str(folder)],
        cwd=ROOT,
        env=environment({}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    progress = ""
    while "text: exporting ..." not in progress and (line := process.stderr.readline()):
        progress += line
    assert len(list(folder.parent.glob(".model.*"))) == 1
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, progress + err)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_an_interrupted_bake(tiny: Tiny, out: Path, number: signal.Signals) -> None:
    before = snapshot(out.parent)

    outcome = bake_and_signal(tiny, out, number)

    assert outcome.status == 130
    assert outcome.sentence == "bake: interrupted, nothing was written."
    assert snapshot(out.parent) == before


@pytest.mark.full
def test_a_killed_bake(run: Run, tiny: Tiny, baked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(baked, folder)

    outcome = bake_and_signal(tiny, folder, signal.SIGKILL)

    assert outcome.status == -signal.SIGKILL
    load_model(folder, ["text"], scheduler=Scheduler(2, 0)).text.get().canary.get()
    (unfinished,) = tmp_path.glob(".model.*")
    with pytest.raises(ModelError):
        load_manifest(unfinished)
    assert run(*tiny.arguments, "--towers", "image", "--out", folder).status == 0
    load_model(folder, ["image"], scheduler=Scheduler(2, 0)).image.get().canary.get()
