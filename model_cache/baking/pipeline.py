"""The stages of a bake: load the model, bake each tower, write the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import TOWERS, slug
from clip_embeddings.paths import MODEL_CACHE
from model_cache.baking import catalogue, hub
from model_cache.baking.catalogue import CatalogueEntry, ModelSource
from model_cache.baking.errors import BakeError
from model_cache.baking.loaders import registry
from model_cache.baking.output import atomic_folder, write_manifest
from model_cache.baking.progress import step
from model_cache.baking.recall_bound import MAX_RECALL_LOSS, choose_by_recall, open_bound

if TYPE_CHECKING:
    from model_cache.baking.checkpoints import Checkpoint

# The packages that every bake imports, beside those of the functions.
REQUIRED_MODULES = ("torch", "open_clip", "onnx")


def bake(
    name: str,
    *,
    checkpoint: Path | None = None,
    config: Path | None = None,
    precision: str = "auto",
    towers: Sequence[str] | None = None,
    quick_gelu: bool | None = None,
    out: Path | None = None,
    pairs: Path | None = None,
    max_recall_loss: float = MAX_RECALL_LOSS,
) -> Path:
    """Bake the model `name` into `out` and return that folder.

    Args:
        name: a name of the catalogue, ARCH/PRETRAINED of open_clip, or ARCH with `checkpoint`.
        checkpoint: local weights to load instead of a download.
        config: an architecture in open_clip's JSON form; `name` then never means a catalogue's model.
        precision: "fp32", "int8", or "auto" for int8 where it stays close to float32.
        towers: the towers to bake; default: all that the model has.
        quick_gelu: overrides the activation of the pretrained tag or architecture.
        out: default: a folder in model_cache/ named after the model.
        pairs: a CSV file of pictures and captions. "auto" then takes int8 only where R@1 on them drops by at
            most `max_recall_loss` points, besides.

    Raises:
        BakeError: the model cannot be baked as requested, or the export differs from the model.
        ModuleNotFoundError: a package is not installed.
    """
    # Checked before anything is downloaded.
    for module in REQUIRED_MODULES:
        if find_spec(module) is None:
            raise ModuleNotFoundError(name=module)
    bound = open_bound(pairs, max_recall_loss) if pairs else None
    entry = catalogue.find(name)
    target = out or MODEL_CACHE / slug(entry.name if entry else name)
    with step(f"loading {name}"):
        if entry and not config:
            loaded = _load_from_catalogue(entry, checkpoint, quick_gelu)
        else:
            loaded = registry.load(
                ModelSource("open_clip", name, checkpoint=checkpoint, config=config, quick_gelu=quick_gelu)
            )
    # Imported late: importing torch takes seconds, and most mistakes are reported before that.
    from model_cache.baking.parity import choose_precision, table
    from model_cache.baking.tower_pipeline import build_tower, finish_tower

    if towers is None:
        towers = [tower for tower in TOWERS if getattr(loaded, tower)]
    if bound and set(towers) != set(TOWERS):
        raise BakeError(f"--pairs needs both towers, and {name} is baked with {towers[0]} alone.")
    with atomic_folder(target) as folder:
        built = {tower: build_tower(tower, loaded, precision, folder) for tower in towers}
        choices = {tower: choose_precision(precision, one.figures) for tower, one in built.items()}
        if bound:
            choices = choose_by_recall(bound, built["text"], built["image"], choices)
        baked = {tower: finish_tower(one, *choices[tower]) for tower, one in built.items()}
        figures = [
            (tower, name, measured) for tower, one in built.items() for name, measured in one.figures.items()
        ]
        print(table(figures, {tower.name: tower.precision for tower in baked.values()}))
        write_manifest(folder, target.name, entry.aliases if entry else (), loaded, baked)
    print(f"baked {target}: serve it with MODEL={target.name if target.parent == MODEL_CACHE else target}")
    return target


def _load_from_catalogue(
    entry: CatalogueEntry, checkpoint: Path | None, quick_gelu: bool | None
) -> Checkpoint:
    if quick_gelu is not None and not registry.LOADERS[entry.source.loader].supports_quick_gelu:
        raise BakeError(f"{entry.name} has an activation of its own: leave --quick-gelu out.")
    if checkpoint is None:
        # Checked before the loader imports its library, which takes seconds.
        for download in entry.downloads:
            with hub.translate_errors(
                f"The weights of {entry.name}", download.repository, download.filenames[0]
            ):
                hub.check_reachable(download.repository, *download.filenames)
    return registry.load(replace(entry.source, checkpoint=checkpoint, quick_gelu=quick_gelu))
