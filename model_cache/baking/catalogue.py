"""The models people ask for by name, as data. Any other ARCH/PRETRAINED of open_clip bakes too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import Preprocess, slug
from model_cache.baking.errors import BakeError

if TYPE_CHECKING:
    from model_cache.baking.checkpoints import Checkpoint

# Wire formats of the systems that clients come from, by their names in PROTOCOL_MODELS.
_CLIP_CLIENTS = ("native", "notebook", "photo-app")

# As users of DINOv2's small model prepare pictures: resize to 244, crop 224, a half for mean and deviation.
DINO = Preprocess((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="bilinear", resize=244)


@dataclass(frozen=True)
class Entry:
    """A model with a public name.

    `source`: ARCH/PRETRAINED of open_clip, an architecture of timm, or a text tower of sentence-transformers
    with the open_clip model whose image tower it meets.
    """

    name: str
    source: str
    about: str
    licence: str
    # Of the download, in MB.
    megabytes: int
    dimensions: int
    image_source: str = ""
    preprocess: Preprocess | None = None
    aliases: tuple[str, ...] = ()
    # The protocols whose clients expect this model.
    protocols: tuple[str, ...] = ()
    # Files that baking asks a hub for first: (repository, names of which one is enough).
    downloads: tuple[tuple[str, tuple[str, ...]], ...] = ()


def _on_hub(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ((name, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")),)


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="clip-vit-base-patch32",
        aliases=("clip-ViT-B-32",),
        source="ViT-B-32/openai",
        about="OpenAI's CLIP B/32, the one most clients know",
        licence="MIT",
        megabytes=605,
        dimensions=512,
        protocols=_CLIP_CLIENTS,
        downloads=_on_hub("timm/vit_base_patch32_clip_224.openai"),
    ),
    Entry(
        name="clip-vit-large-patch14",
        aliases=("clip-ViT-L-14",),
        source="ViT-L-14/openai",
        about="OpenAI's CLIP L/14: better, and ten times the work",
        licence="MIT",
        megabytes=1711,
        dimensions=768,
        downloads=_on_hub("timm/vit_large_patch14_clip_224.openai"),
    ),
    Entry(
        name="clip-vit-b-32-multilingual-v1",
        source="sentence-transformers/clip-ViT-B-32-multilingual-v1",
        image_source="ViT-B-32/openai",
        about="texts in 50 languages, pictures as clip-vit-base-patch32",
        licence="Apache-2.0, MIT",
        megabytes=1144,
        dimensions=512,
        protocols=("encoder",),
        downloads=(
            ("sentence-transformers/clip-ViT-B-32-multilingual-v1", ("config.json",)),
            *_on_hub("timm/vit_base_patch32_clip_224.openai"),
        ),
    ),
    Entry(
        name="open-clip-vit-b32",
        source="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        about="texts in 100 languages through XLM-R",
        licence="MIT",
        megabytes=1464,
        dimensions=512,
        downloads=_on_hub("laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k"),
    ),
    Entry(
        name="dino-v2-vits14",
        source="vit_small_patch14_dinov2.lvd142m",
        preprocess=DINO,
        about="DINOv2 small: pictures only, vectors not normalised",
        licence="Apache-2.0",
        megabytes=88,
        dimensions=384,
        downloads=(("timm/vit_small_patch14_dinov2.lvd142m", ("model.safetensors", "pytorch_model.bin")),),
    ),
    Entry(
        name="clip-vit-b-32-laion400m",
        source="ViT-B-32/laion400m_e32",
        about="LAION's first B/32",
        licence="MIT",
        megabytes=605,
        dimensions=512,
        downloads=_on_hub("timm/vit_base_patch32_clip_224.laion400m_e32"),
    ),
    Entry(
        name="siglip-base-patch16",
        source="ViT-B-16-SigLIP/webli",
        about="SigLIP B/16",
        licence="Apache-2.0",
        megabytes=813,
        dimensions=768,
        downloads=_on_hub("timm/ViT-B-16-SigLIP"),
    ),
    Entry(
        name="siglip2-base-patch32",
        source="ViT-B-32-SigLIP2-256/webli",
        about="SigLIP 2 B/32 at 256 pixels, multilingual",
        licence="Apache-2.0",
        megabytes=1508,
        dimensions=768,
        downloads=_on_hub("timm/ViT-B-32-SigLIP2-256"),
    ),
    Entry(
        name="mobileclip-s1",
        source="MobileCLIP-S1/datacompdr",
        about="Apple's MobileCLIP S1: a good image tower in few MB",
        licence="Apple AMLR (research)",
        megabytes=340,
        dimensions=512,
        downloads=_on_hub("apple/MobileCLIP-S1-OpenCLIP"),
    ),
    Entry(
        name="mobileclip2-s0",
        source="MobileCLIP2-S0/dfndr2b",
        about="Apple's MobileCLIP2 S0: the cheapest image tower in float32",
        licence="Apple AMLR (research)",
        megabytes=300,
        dimensions=512,
        downloads=_on_hub("timm/MobileCLIP2-S0-OpenCLIP"),
    ),
)


def find(name: str) -> Entry | None:
    """The entry of a public name or alias, however it is capitalised."""
    for entry in CATALOGUE:
        if slug(name) in map(slug, (entry.name, *entry.aliases)):
            return entry
    return None


def load(entry: Entry, checkpoint: Path | None = None, quick_gelu: bool | None = None) -> Checkpoint:
    """The entry's model, from its hub or from a local copy.

    Raises:
        BakeError: no network, a copy that cannot be read or is of another model, an activation for one
            that is not open_clip's alone.
    """
    if quick_gelu is not None and (entry.image_source or entry.preprocess):
        raise BakeError(f"{entry.name} has an activation of its own: leave --quick-gelu out.")
    if checkpoint is None:
        _knock(entry)
    if entry.image_source:
        from model_cache.baking import from_sentence_transformers

        return from_sentence_transformers.load(entry.source, entry.image_source, checkpoint)
    if entry.preprocess:
        from model_cache.baking import from_timm

        return from_timm.load(entry.source, entry.preprocess, checkpoint)
    from model_cache.baking import from_open_clip

    return from_open_clip.load(entry.source, checkpoint, quick_gelu=quick_gelu)


def _knock(entry: Entry) -> None:
    """Before seconds go into importing torch: is the hub there?"""
    from model_cache.baking import hub

    for repository, filenames in entry.downloads:
        with hub.explained(f"The weights of {entry.name}", repository, filenames[0]):
            hub.knock(repository, *filenames)


def table(entries: Sequence[Entry] = CATALOGUE) -> str:
    """The catalogue for a terminal."""
    lines = ["name                           dims  download  licence                what it is"]
    for entry in entries:
        lines.append(
            f"{entry.name:30} {entry.dimensions:4}  {entry.megabytes:5} MB  {entry.licence:21}  {entry.about}"
        )
        if entry.protocols:
            lines.append(f"{'':30}       what clients of {', '.join(entry.protocols)} expect")
    return "\n".join(lines)
