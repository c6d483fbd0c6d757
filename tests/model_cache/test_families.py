"""Every family of models, baked and compared with its own implementation on batches of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_embeddings.engine.manifest import load_manifest
from clip_embeddings.engine.model import load_model
from clip_embeddings.engine.scheduler import Scheduler
from model_cache.baking import catalogue, parity_samples
from tests.support.baking import families
from tests.support.baking.command import Run, command_line
from tests.support.baking.full_size import publish
from tests.support.baking.hub import serving_hub
from tests.support.baking.tiny import (
    TEXT,
    VISION,
    Tiny,
    engine_images,
    engine_texts,
    make,
    min_cosine,
    texts,
    torch_images,
    torch_texts,
)

SMALL_TEXT = {"width": 64, "heads": 2, "layers": 2, "vocab_size": 3000, "context_length": 64}


@dataclass(frozen=True)
class Family:
    """A baked model, and its own implementation: texts or images -> float32 (n, d), L2-normalized."""

    folder: Path
    texts: Callable[[Sequence[str]], np.ndarray] | None
    images: Callable[[Sequence[Any]], np.ndarray] | None
    # Scale, its exponential, and bias of the original, for zero-shot classification.
    logits: tuple[float | None, float | None] = (None, None)


def open_clip_family(run: Run, folder: Path, name: str, **config: Any) -> Family:
    path = families.write_config(folder, name, embed_dim=32, **config)
    model = families.random_weights(name, folder / "weights.pt")

    outcome = run(
        name,
        *("--config", path, "--checkpoint", folder / "weights.pt"),
        *("--precision", "fp32", "--out", folder / "baked"),
    )

    assert outcome.status == 0, outcome.err
    return Family(
        folder / "baked",
        lambda items: torch_texts(name, model, items),
        lambda items: torch_images(model, items),
        _logits(model),
    )


def _logits(model: Any) -> tuple[float | None, float | None]:
    bias = model.logit_bias
    return model.logit_scale.exp().item(), None if bias is None else bias.item()


def xlm_roberta(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    hub = families.xlm_roberta(families.unigram(folder / "xlm-r", 3000), 3000, **sizes)
    text = {
        "hf_model_name": str(hub),
        "hf_tokenizer_name": str(hub),
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
    }
    return open_clip_family(run, folder, "small-xlm-r", vision_cfg=VISION, text_cfg=text)


def siglip(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    hub = families.siglip(folder / "tokenizer", 3000)
    text = {
        **SMALL_TEXT,
        "hf_tokenizer_name": str(hub),
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    families.register_small_siglip("vit_siglip_in_small")
    vision = {
        "image_size": 224,
        "timm_model_name": "vit_siglip_in_small",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "linear",
    }
    return open_clip_family(
        run, folder, "small-siglip", vision_cfg=vision, text_cfg=text, custom_text=True, init_logit_bias=-10
    )


def mobileclip(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    vision = {
        "image_size": 64,
        "timm_model_name": "fastvit_mci0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": None,
    }
    return open_clip_family(
        run,
        folder,
        "small-mobileclip",
        vision_cfg=vision,
        text_cfg={**TEXT, "no_causal_mask": True},
        custom_text=True,
    )


def multilingual(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    from sentence_transformers import SentenceTransformer

    pictures: Tiny = make(folder, "small-pictures")
    text = families.sentence_transformer(
        folder / "text", 3000, 32, dim=64, n_layers=2, n_heads=2, hidden_dim=128
    )
    pictures.checkpoint.rename(text / "image.pt")
    entry = catalogue.CatalogueEntry(
        name="small-multilingual",
        source=catalogue.ModelSource("sentence_transformers", "us/text", image_name="small-pictures"),
        about="",
        license="",
        megabytes=1,
        dimensions=32,
        aliases=("Small ML",),
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))

    outcome = run("Small ML", "--checkpoint", text, "--precision", "fp32", "--out", folder / "baked")

    assert outcome.status == 0, outcome.err
    reference = SentenceTransformer(str(text), device="cpu")
    return Family(
        folder / "baked",
        lambda items: reference.encode(list(items), normalize_embeddings=True, show_progress_bar=False),
        lambda items: torch_images(pictures.model, items),
        _logits(pictures.model),
    )


def dino(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    entry = catalogue.find("dino-v2-vits14")
    assert entry is not None
    published = publish(entry, folder)
    (weights,) = published.files.values()

    outcome = run(entry.name, "--checkpoint", weights, "--precision", "fp32", "--out", folder / "baked")

    assert outcome.status == 0, outcome.err
    return Family(folder / "baked", None, published.images)


# The full run bakes those that take long, the last two in full size too.
FAMILIES = (
    pytest.param(xlm_roberta, marks=pytest.mark.full),
    siglip,
    pytest.param(multilingual, marks=pytest.mark.full),
    pytest.param(mobileclip, marks=pytest.mark.full),
    pytest.param(dino, marks=pytest.mark.full),
)


@pytest.mark.parametrize("make", FAMILIES)
def test_a_family_gives_the_vectors_of_its_own_implementation(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Family]
) -> None:
    few_images = parity_samples.images()[:17]
    monkeypatch.setattr(parity_samples, "images", lambda: few_images)

    family = make(run, tmp_path, monkeypatch)

    if family.texts:
        for items in (texts()[-17:], texts()[60:61], [""]):
            assert min_cosine(engine_texts(family.folder, items), family.texts(items)) >= 0.9999
    assert family.images is not None
    for pictures in (few_images, few_images[3:4]):
        assert min_cosine(engine_images(family.folder, pictures), family.images(pictures)) >= 0.9999
    manifest = load_manifest(family.folder)
    assert manifest.normalize is (family.texts is not None)
    assert manifest.is_called("small ml") is (make is multilingual)
    assert manifest.towers["image"].convolutional is (make is mobileclip)
    scale, bias = family.logits
    assert manifest.logit_scale == (pytest.approx(scale, rel=1e-6) if scale else None)
    assert manifest.logit_bias == bias == (-10 if make is siglip else None)
    assert list(manifest.towers) == (["text", "image"] if family.texts else ["image"])


@pytest.mark.full
def test_padding_does_not_change_vectors(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside a long text, nor for a text that contains the padding token."""
    family = multilingual(run, tmp_path, monkeypatch)
    items = ["a cat", "[PAD]", "a [PAD] cat [SEP]", "word " * 300, ""]

    assert family.texts is not None
    together, alone = engine_texts(family.folder, items), family.texts(items)

    assert min_cosine(together, alone) >= 0.9999
    one_by_one = np.concatenate([engine_texts(family.folder, [item]) for item in items])
    assert np.abs(together - one_by_one).max() <= 1e-5
    model = load_model(family.folder, ["text"], scheduler=Scheduler(2, 0))
    assert model.text.get().embed(items).truncated == [3]


@pytest.mark.full
def test_a_tower_larger_than_an_onnx_file_may_be(run: Run, tmp_path: Path) -> None:
    """A protobuf message holds up to 2 GiB: the token table here is larger."""
    model = make(tmp_path, "huge", text={"vocab_size": 4_500_000, "width": 128})

    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        arguments = (*model.arguments, "--towers", "text", "--precision", precision, "--out", folder)
        outcome = run(*arguments)

        assert outcome.status == 0, outcome.err
        files = {file.path: file.bytes for file in load_manifest(folder, ["text"]).towers["text"].files}
        assert (files["text.data"] > 2**31) is (precision == "fp32")
        captions = texts()[-17:]
        least = 0.9999 if precision == "fp32" else 0.99
        assert min_cosine(engine_texts(folder, captions), torch_texts("huge", model.model, captions)) >= least


@pytest.mark.full
@pytest.mark.parametrize("name", [entry.name for entry in catalogue.CATALOGUE])
def test_the_catalogue_in_full_size(name: str, tmp_path: Path) -> None:
    """By public name and with downloads from a hub: random weights of the real architecture."""
    entry = catalogue.find(name)
    assert entry is not None
    published = publish(entry, tmp_path)

    with serving_hub(published.files) as hub:
        outcome = command_line(
            name,
            *("--precision", "fp32", "--out", tmp_path / "baked"),
            **hub.environment(tmp_path / "cache"),
        )

    assert outcome.status == 0, outcome.err
    print(outcome.out)
    assert load_manifest(tmp_path / "baked").dimensions == entry.dimensions
    if published.texts:
        captions = texts()[-17:]
        assert min_cosine(engine_texts(tmp_path / "baked", captions), published.texts(captions)) >= 0.9999
    pictures = parity_samples.images()[:17]
    assert min_cosine(engine_images(tmp_path / "baked", pictures), published.images(pictures)) >= 0.9999


# One architecture of each other kind that open_clip builds.
OTHER_KINDS = (
    "RN50",
    "convnext_base",
    "coca_ViT-B-32",
    "EVA02-B-16",
    "ViTamin-S",
    "PE-Core-T-16-384",
)


@pytest.mark.full
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_architectures_of_open_clip(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pictures, captions = parity_samples.images()[:17], texts()[-17:]
    monkeypatch.setattr(parity_samples, "images", lambda: pictures)
    model = families.random_weights(name, tmp_path / "weights.pt")

    outcome = run(
        *(name, "--checkpoint", tmp_path / "weights.pt"),
        *("--precision", "fp32", "--out", tmp_path / "baked"),
    )

    assert outcome.status == 0, outcome.err
    print(outcome.out)
    folder = tmp_path / "baked"
    assert min_cosine(engine_texts(folder, captions), torch_texts(name, model, captions)) >= 0.9999
    assert min_cosine(engine_images(folder, pictures), torch_images(model, pictures)) >= 0.9999
