"""Preprocessing configurations of every kind that models use."""

from __future__ import annotations

from clip_embeddings.engine.manifest import Preprocess

# Mean and standard deviation of CLIP's training images: open_clip.constants.OPENAI_DATASET_MEAN and _STD.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

CLIP = Preprocess((224, 224), MEAN, STD)
LONGEST = Preprocess((64, 64), MEAN, STD, resize_mode="longest", fill_color=128)

CONFIGURATIONS = {
    "clip": CLIP,
    "shortest bilinear": Preprocess((32, 32), MEAN, STD, interpolation="bilinear"),
    "odd size": Preprocess((75, 75), MEAN, STD),
    "not square": Preprocess((48, 80), MEAN, STD, interpolation="bilinear"),
    "squash": Preprocess((64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode="squash"),
    "squash bilinear, not square": Preprocess((40, 56), MEAN, STD, "bilinear", "squash"),
    "longest": LONGEST,
    "longest bilinear, not square": Preprocess((61, 40), MEAN, STD, "bilinear", "longest", 7),
}
