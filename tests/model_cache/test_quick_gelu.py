"""The activation: that of the pretrained tag, else of the architecture, unless an option overrides it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clip_embeddings.engine.manifest import load_manifest
from model_cache.baking import parity_samples
from model_cache.baking.loaders.open_clip import needs_quick_gelu
from model_cache.baking.torch_setup import import_open_clip
from tests.support.baking.command import Outcome, Run, command_line
from tests.support.baking.hub import serving_hub
from tests.support.baking.tiny import (
    Tiny,
    engine_images,
    engine_texts,
    make,
    min_cosine,
    sharpen,
    texts,
    torch_images,
    torch_texts,
)
from tests.support.serving import ROOT, environment

TAGS = {
    "quick": {"hf_hub": "team/tiny/", "quick_gelu": True},
    "gone": {"hf_hub": "team/gone/", "quick_gelu": True},
    "broken": {"hf_hub": "team/broken/weights.bin"},
}


@dataclass(frozen=True)
class Downloads:
    """The outcome of baking each of TAGS, and the requests that the hub got."""

    outcomes: dict[str, Outcome]
    folder: Path
    requests: list[str]


@pytest.fixture(scope="module")
def downloads(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Downloads:
    folder = tmp_path_factory.mktemp("downloads")
    weights = folder / "weights.safetensors"
    save_file(tiny.model.state_dict(), weights)
    runs = [[f"tiny/{tag}", "--precision", "fp32", "--out", str(folder / tag)] for tag in TAGS]
    with serving_hub({"team/tiny/open_clip_model.safetensors": weights}, broken="team/broken") as hub:
        command = [sys.executable, "-m", "tests.support.baking.tagged", str(tiny.config)]
        done = subprocess.run(
            [*command, json.dumps(TAGS), json.dumps(runs)],
            cwd=ROOT,
            env=environment(hub.environment(folder / "cache")),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    outcomes = [Outcome(*outcome) for outcome in json.loads(done.stdout)]
    return Downloads(dict(zip(TAGS, outcomes, strict=True)), folder, hub.requests)


def test_weights_are_downloaded_from_the_hub(downloads: Downloads) -> None:
    outcome, folder = downloads.outcomes["quick"], downloads.folder / "quick"

    assert outcome.status == 0, outcome.err
    assert "GET /team/tiny/resolve/main/open_clip_model.safetensors" in downloads.requests
    manifest = load_manifest(folder, ["text", "image"])
    assert (manifest.name, manifest.pretrained, manifest.quick_gelu) == ("quick", "quick", True)


def test_the_activation_of_a_tag_has_priority_over_the_architecture(downloads: Downloads, tiny: Tiny) -> None:
    folder, captions, images = downloads.folder / "quick", texts(), parity_samples.images()

    ours = engine_texts(folder, captions), engine_images(folder, images)

    right, wrong = tiny.with_activation(quick_gelu=True), tiny.with_activation(quick_gelu=False)
    assert min_cosine(ours[0], torch_texts("tiny", right, captions)) >= 0.99999
    assert min_cosine(ours[1], torch_images(right, images)) >= 0.99999
    assert min_cosine(ours[0], torch_texts("tiny", wrong, captions)) < 0.999
    assert min_cosine(ours[1], torch_images(wrong, images)) < 0.999


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("gone", "team/gone/resolve/main/open_clip_model.safetensors: HTTPStatusError: Client error '404"),
        ("broken", "team/broken/resolve/main/weights.safetensors: HTTPStatusError: Server error '500"),
    ],
)
def test_a_hub_without_the_weights(downloads: Downloads, tag: str, reason: str) -> None:
    outcome = downloads.outcomes[tag]

    assert outcome.status == 2
    assert f"The weights of tiny/{tag} could not be downloaded from http://127.0.0.1:" in outcome.sentence
    assert reason in outcome.sentence
    assert "--checkpoint" in outcome.sentence
    assert not (downloads.folder / tag).exists()


@pytest.mark.parametrize(
    ("architecture", "flag", "quick"),
    [
        pytest.param(False, None, False, marks=pytest.mark.full),
        (True, None, True),
        pytest.param(False, "--quick-gelu", True, marks=pytest.mark.full),
        (True, "--no-quick-gelu", False),
    ],
)
def test_a_local_checkpoint_has_the_activation_of_the_architecture_or_the_option(
    run: Run, tmp_path: Path, architecture: bool, flag: str | None, quick: bool
) -> None:
    model = make(tmp_path, f"activation-{architecture}", quick_gelu=architecture)
    options = ["--towers", "image", "--precision", "fp32", "--out", tmp_path / "baked"]

    outcome = run(*model.arguments, *options, *([flag] if flag else []))

    assert outcome.status == 0
    assert load_manifest(tmp_path / "baked").quick_gelu is quick
    images = parity_samples.images()
    ours = engine_images(tmp_path / "baked", images)
    assert min_cosine(ours, torch_images(model.with_activation(quick), images)) >= 0.99999
    assert min_cosine(ours, torch_images(model.with_activation(not quick), images)) < 0.999


def test_the_activation_of_every_pretrained_tag_of_open_clip() -> None:
    open_clip = import_open_clip()
    decided: dict[tuple[str, str], tuple[bool, Any, bool]] = {}
    for architecture, tag in open_clip.list_pretrained():
        model_config = open_clip.get_model_config(architecture)
        tag_config = open_clip.get_pretrained_cfg(architecture, tag)
        decided[architecture, tag] = (
            needs_quick_gelu(model_config, tag_config),
            tag_config.get("quick_gelu"),
            model_config.get("quick_gelu", False),
        )

    assert all(quick is by_tag for quick, by_tag, _ in decided.values() if by_tag is not None)
    assert all(quick is by_model for quick, by_tag, by_model in decided.values() if by_tag is None)
    assert decided["ViT-B-32", "laion400m_e32"] == (True, True, False)
    assert decided["ViT-B-32", "openai"] == (True, True, False)
    assert decided["ViT-B-32-quickgelu", "openai"] == (True, True, True)
    assert decided["ViT-B-32", "laion2b_s34b_b79k"] == (False, None, False)
    # Trained with the activation of its architecture, which open_clip's table of tags does not repeat.
    assert decided["roberta-ViT-B-32", "laion2b_s12b_b32k"] == (True, None, True)


@pytest.mark.full
@pytest.mark.parametrize(("tag", "quick"), [("laion400m_e32", True), (None, False)])
def test_full_size_vectors_equal_those_of_open_clip(tmp_path: Path, tag: str | None, quick: bool) -> None:
    open_clip = import_open_clip()
    torch.manual_seed(11)
    model = open_clip.create_model("ViT-B-32", force_quick_gelu=quick).eval()
    sharpen(model)
    folder, weights = tmp_path / "baked", tmp_path / "random.safetensors"
    save_file(model.state_dict(), weights)
    options = ("--precision", "fp32", "--out", folder)

    repository = "timm/vit_base_patch32_clip_224.laion400m_e32"
    with serving_hub({f"{repository}/open_clip_model.safetensors": weights}) as hub:
        settings = hub.environment(tmp_path / "cache")
        if tag:
            outcome = command_line(f"ViT-B-32/{tag}", *options, **settings)
        else:
            outcome = command_line("ViT-B-32", "--checkpoint", weights, *options, **settings)

    assert outcome.status == 0, outcome.err
    assert bool(hub.requests) is bool(tag)
    captions, images = texts(), parity_samples.images()
    ours = engine_texts(folder, captions), engine_images(folder, images)
    right = torch_texts("ViT-B-32", model, captions), torch_images(model, images)
    wrong_model = open_clip.create_model("ViT-B-32", force_quick_gelu=not quick).eval()
    wrong_model.load_state_dict(model.state_dict())
    wrong = torch_texts("ViT-B-32", wrong_model, captions), torch_images(wrong_model, images)
    for vectors, expected, unexpected in zip(ours, right, wrong, strict=True):
        print(f"lowest cosine {min_cosine(vectors, expected):.7f}, to the other activation's", end=" ")
        print(f"{min_cosine(vectors, unexpected):.7f}")
        assert min_cosine(vectors, expected) >= 0.99999
        assert min_cosine(vectors, unexpected) < 0.999
