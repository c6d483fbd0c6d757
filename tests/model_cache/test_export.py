"""Architectures that differ from the original CLIP: the export gives the vectors of open_clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.engine.manifest import load_manifest
from model_cache.baking import parity_samples
from tests.support.baking.command import Run
from tests.support.baking.tiny import (
    engine_images,
    engine_texts,
    make,
    min_cosine,
    texts,
    torch_images,
    torch_texts,
)

RESNET = {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "image_size": 64}
POOLER = {"width": 32, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
KINDS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "own-text": ("text", True, {"custom_text": True, "text": {"proj_bias": True}}),
    "not-causal": ("text", False, {"text": {"no_causal_mask": True}}),
    "last-token": ("text", False, {"text": {"pool_type": "last"}}),
    "class-token": ("text", False, {"custom_text": True, "text": {"embed_cls": True, "pool_type": "last"}}),
    "short-context": ("text", True, {"quick_gelu": True, "text": {"context_length": 16}}),
    "resnet": ("image", True, {"vision": RESNET}),
    # As wide as the embedding: the shapes of the pooler's weights are then those of self-attention.
    "pooler": ("image", True, {"vision": POOLER}),
    "wide-image": ("image", True, {"quick_gelu": True, "vision": {"image_size": [32, 48]}}),
}


# Each takes seconds, so that the quick run has one.
QUICK = ("resnet",)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.full) for kind in KINDS]
)
def test_other_architectures(run: Run, tmp_path: Path, kind: str) -> None:
    tower, trim, changes = KINDS[kind]
    model = make(tmp_path, kind, **changes)
    folder = tmp_path / "baked"

    outcome = run(*model.arguments, "--towers", tower, "--precision", "fp32", "--out", folder)

    assert outcome.status == 0, outcome.err
    manifest = load_manifest(folder, [tower])
    assert manifest.quick_gelu is changes.get("quick_gelu", False)
    if tower == "text":
        spec = manifest.towers["text"].text
        assert spec is not None
        assert spec.trim is trim
        assert spec.context_length == changes["text"].get("context_length", 77)
        captions = texts()
        assert min_cosine(engine_texts(folder, captions), torch_texts(kind, model.model, captions)) >= 0.99999
    else:
        images = parity_samples.images()
        assert min_cosine(engine_images(folder, images), torch_images(model.model, images)) >= 0.99999
