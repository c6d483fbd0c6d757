"""The models that have a public name, as data. Any other ARCH/PRETRAINED of open_clip can be baked too.

This module does not import torch, because deploying reads it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.engine.manifest import Preprocess, slug

# The model to bake and to deploy if the command line names none.
DEFAULT_MODEL = "ViT-B-32/laion400m_e32"

# Protocols whose clients expect the vectors of OpenAI's CLIP, by their names in PROTOCOL_MODELS.
_CLIP_CLIENTS = ("native", "notebook", "photo-app")

# As users of DINOv2's small model prepare images: resize to 244, crop to 224, mean and deviation 0.5.
DINO_PREPROCESS = Preprocess(
    (224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="bilinear", resize=244
)


@dataclass(frozen=True)
class ModelSource:
    """The weights to load, and the loader that can read them."""

    # A key of `loaders.registry.LOADERS`.
    loader: str
    # As the loader's library spells it: ARCH/PRETRAINED of open_clip, an architecture of timm, a repository
    # of sentence-transformers.
    name: str
    # Local weights to load instead of a download.
    checkpoint: Path | None = None
    # open_clip only: the architecture as a file in open_clip's JSON form.
    config: Path | None = None
    # open_clip only: overrides the activation of the pretrained tag or architecture.
    quick_gelu: bool | None = None
    # sentence_transformers only: the open_clip model that has the matching image tower.
    image_name: str = ""
    # timm only: timm does not record how the users of a model prepare its images.
    preprocess: Preprocess | None = None


@dataclass(frozen=True)
class Download:
    """A file to download from a hub. Of its alternative names, the preferred one is first."""

    repository: str
    filenames: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueEntry:
    """A model with a public name."""

    name: str
    source: ModelSource
    about: str
    license: str
    # Size of the download, in MB.
    megabytes: int
    dimensions: int
    aliases: tuple[str, ...] = ()
    # The protocols whose clients expect this model.
    protocols: tuple[str, ...] = ()
    # The first downloads of a bake, used to check that the hub is reachable.
    downloads: tuple[Download, ...] = ()


def _open_clip_download(repository: str) -> Download:
    return Download(repository, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name="clip-vit-base-patch32",
        aliases=("clip-ViT-B-32",),
        source=ModelSource(loader="open_clip", name="ViT-B-32/openai"),
        about="OpenAI's CLIP B/32, the one most clients know",
        license="MIT",
        megabytes=605,
        dimensions=512,
        protocols=_CLIP_CLIENTS,
        downloads=(_open_clip_download("timm/vit_base_patch32_clip_224.openai"),),
    ),
    CatalogueEntry(
        name="clip-vit-large-patch14",
        aliases=("clip-ViT-L-14",),
        source=ModelSource(loader="open_clip", name="ViT-L-14/openai"),
        about="OpenAI's CLIP L/14: better, and ten times the work",
        license="MIT",
        megabytes=1711,
        dimensions=768,
        downloads=(_open_clip_download("timm/vit_large_patch14_clip_224.openai"),),
    ),
    CatalogueEntry(
        name="clip-vit-b-32-multilingual-v1",
        source=ModelSource(
            loader="sentence_transformers",
            name="sentence-transformers/clip-ViT-B-32-multilingual-v1",
            image_name="ViT-B-32/openai",
        ),
        about="texts in 50 languages, pictures as clip-vit-base-patch32",
        license="Apache-2.0, MIT",
        megabytes=1144,
        dimensions=512,
        protocols=("encoder",),
        downloads=(
            Download("sentence-transformers/clip-ViT-B-32-multilingual-v1", ("config.json",)),
            _open_clip_download("timm/vit_base_patch32_clip_224.openai"),
        ),
    ),
    CatalogueEntry(
        name="open-clip-vit-b32",
        source=ModelSource(loader="open_clip", name="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"),
        about="texts in 100 languages through XLM-R",
        license="MIT",
        megabytes=1464,
        dimensions=512,
        downloads=(_open_clip_download("laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k"),),
    ),
    CatalogueEntry(
        name="dino-v2-vits14",
        source=ModelSource(
            loader="timm", name="vit_small_patch14_dinov2.lvd142m", preprocess=DINO_PREPROCESS
        ),
        about="DINOv2 small: pictures only, vectors not normalized",
        license="Apache-2.0",
        megabytes=88,
        dimensions=384,
        downloads=(
            Download("timm/vit_small_patch14_dinov2.lvd142m", ("model.safetensors", "pytorch_model.bin")),
        ),
    ),
    CatalogueEntry(
        name="clip-vit-b-32-laion400m",
        source=ModelSource(loader="open_clip", name=DEFAULT_MODEL),
        about="LAION's first B/32",
        license="MIT",
        megabytes=605,
        dimensions=512,
        downloads=(_open_clip_download("timm/vit_base_patch32_clip_224.laion400m_e32"),),
    ),
    CatalogueEntry(
        name="siglip-base-patch16",
        source=ModelSource(loader="open_clip", name="ViT-B-16-SigLIP/webli"),
        about="SigLIP B/16",
        license="Apache-2.0",
        megabytes=813,
        dimensions=768,
        downloads=(_open_clip_download("timm/ViT-B-16-SigLIP"),),
    ),
    CatalogueEntry(
        name="siglip2-base-patch32",
        source=ModelSource(loader="open_clip", name="ViT-B-32-SigLIP2-256/webli"),
        about="SigLIP 2 B/32 at 256 pixels, multilingual",
        license="Apache-2.0",
        megabytes=1508,
        dimensions=768,
        downloads=(_open_clip_download("timm/ViT-B-32-SigLIP2-256"),),
    ),
    CatalogueEntry(
        name="mobileclip-s1",
        source=ModelSource(loader="open_clip", name="MobileCLIP-S1/datacompdr"),
        about="Apple's MobileCLIP S1: a good image tower in few MB",
        license="Apple AMLR (research)",
        megabytes=340,
        dimensions=512,
        downloads=(_open_clip_download("apple/MobileCLIP-S1-OpenCLIP"),),
    ),
    CatalogueEntry(
        name="mobileclip2-s0",
        source=ModelSource(loader="open_clip", name="MobileCLIP2-S0/dfndr2b"),
        about="Apple's MobileCLIP2 S0: the cheapest image tower in float32",
        license="Apple AMLR (research)",
        megabytes=300,
        dimensions=512,
        downloads=(_open_clip_download("timm/MobileCLIP2-S0-OpenCLIP"),),
    ),
)


def find(name: str) -> CatalogueEntry | None:
    """The entry with this public name or alias, regardless of capitalization; None if there is none."""
    for entry in CATALOGUE:
        if slug(name) in map(slug, (entry.name, *entry.aliases)):
            return entry
    return None


def table(entries: Sequence[CatalogueEntry] = CATALOGUE) -> str:
    """The catalogue as a table for a terminal."""
    lines = ["name                           dims  download  license                what it is"]
    for entry in entries:
        lines.append(
            f"{entry.name:30} {entry.dimensions:4}  {entry.megabytes:5} MB  {entry.license:21}  {entry.about}"
        )
        if entry.protocols:
            lines.append(f"{'':30}       what clients of {', '.join(entry.protocols)} expect")
    return "\n".join(lines)
