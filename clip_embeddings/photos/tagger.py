"""Tags pictures: which labels fit the vector of one."""

from __future__ import annotations

import msgspec
import numpy as np

from clip_embeddings.engine.manifest import ModelError, load_manifest
from clip_embeddings.engine.model import Model
from clip_embeddings.engine.zero_shot import probabilities
from clip_embeddings.errors import ConfigError
from clip_embeddings.lazy import Lazy
from clip_embeddings.logs import logger
from clip_embeddings.photos.label_sets import LabelSet, embed_labels, make_label_set, read_labels
from clip_embeddings.runtime import Runtime

# Labels of one picture, at most, the most probable ones. Only a model that judges each label by itself, or a
# low threshold, gives more.
MAX_TAGS = 20
# Digits of a probability that are stored.
DIGITS = 4


class Tagger(msgspec.Struct, frozen=True):
    """A set of labels, and their vectors: (labels + background, d) float32, made at first use."""

    label_set: LabelSet
    # Of the label set: the value of `Entry.label_set` of what it tags.
    identity: str
    vectors: Lazy[np.ndarray]

    def tags(self, vectors: np.ndarray) -> list[dict[str, float]]:
        """The labels of pictures with their probabilities, best first: those that reach the threshold.

        Args:
            vectors: (n, d), the unit vectors of the pictures.

        Raises:
            ModelError: the text tower that embeds the labels does not work.
        """
        wanted, labels = self.label_set, self.label_set.labels
        cosines = vectors @ self.vectors.get().T
        rows = probabilities(cosines, wanted.logit_scale, wanted.logit_bias)[:, : len(labels)]
        best = np.argsort(-rows, axis=1, kind="stable")[:, :MAX_TAGS]
        return [
            {
                labels[place]: round(float(row[place]), DIGITS)
                for place in order
                if row[place] >= wanted.threshold
            }
            for row, order in zip(rows, best, strict=True)
        ]


def open_tagger(model: Model, runtime: Runtime) -> Tagger | None:
    """What tags pictures in this deployment: by PHOTO_LABELS, else by the labels that lie beside the model,
    else nothing.

    Raises:
        ConfigError: the labels cannot be embedded here, or are of another model.
    """
    read = read_labels(model.folder, model.manifest)
    if not runtime.settings.photos.labels.labels:
        return _tagger(*read) if read else None
    label_set = make_label_set(runtime.settings.photos.labels, model.manifest)
    if read and read[0] == label_set:
        return _tagger(*read)
    try:
        load_manifest(model.folder, ("text",))
    except ModelError as error:
        raise ConfigError(
            f"PHOTO_LABELS cannot be embedded here: {error} A function without a text tower gets its labels "
            "when it is staged, by ./deploy.sh --photo-labels."
        ) from None

    def embed() -> np.ndarray:
        vectors = embed_labels(label_set, model.text.get())
        if "text" not in runtime.towers:
            # Nothing else here needs the tower.
            model.text.clear()
        logger.info("photos are tagged with %d labels", len(label_set.labels))
        return vectors

    return Tagger(label_set, label_set.identity, Lazy(embed))


def _tagger(label_set: LabelSet, vectors: np.ndarray) -> Tagger:
    return Tagger(label_set, label_set.identity, Lazy(lambda: vectors))
