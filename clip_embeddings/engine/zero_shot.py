"""Zero-shot classification: from cosines of pictures and labels to probabilities.

A model of the CLIP family is trained to tell which texts belong to which pictures by `scale * cosine`, and
SigLIP by `scale * cosine + bias`. Scale and bias are weights of the checkpoint. `bake` stores them in the
manifest, as `logit_scale` (its exponential, e.g. 100.0) and `logit_bias`.

Which probabilities a model gives:

- CLIP (no bias): the softmax over the labels, which adds up to 1, as OpenAI's and open_clip's examples and
  Hugging Face's pipeline compute it.
- SigLIP (with a bias): the sigmoid for each label by itself, as its authors and Hugging Face's pipeline do.
- CLIP with `multi_label`: CLIP's cosines have no zero of their own, and the sigmoid of `scale * cosine` is
  close to 1 for anything. So each label is compared with neutral phrases, which describe every picture
  equally well: the smallest of its softmaxes against each of them. That is the relevancy score of LERF (Kerr
  et al. 2023, arxiv.org/abs/2303.09553), with its phrases, and with the model's scale.
- SigLIP with `multi_label` false: the softmax. The bias is the same for all labels and cancels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.label_settings import PLACE

# The template where none is chosen, CLIP's own: https://arxiv.org/abs/2103.00020, section 3.1.4.
DEFAULT_TEMPLATE = "a photo of a {}."
# The canonical phrases of LERF, see above.
NEUTRAL_LABELS = ("object", "things", "stuff", "texture")


def prompts(label: str, templates: Sequence[str]) -> list[str]:
    """The prompts for a label: each template with `label` in its place."""
    return [template.replace(PLACE, label) for template in templates]


def label_vectors(prompt_vectors: np.ndarray, templates: int) -> np.ndarray:
    """One unit vector per label, the normalized mean of its prompts' unit vectors: (labels, d) float32.

    Args:
        prompt_vectors: (labels * templates, d), of any length, label by label.
        templates: the number of prompts per label.
    """
    rows = normalize_rows(prompt_vectors)
    return normalize_rows(rows.reshape(-1, templates, rows.shape[1]).mean(axis=1))


def uses_neutral_labels(bias: float | None, multi_label: bool | None) -> bool:
    """Whether `probabilities` needs the cosines of NEUTRAL_LABELS for a model with this bias, or none."""
    return bias is None and bool(multi_label)


def probabilities(
    cosines: np.ndarray,
    scale: float,
    bias: float | None = None,
    *,
    multi_label: bool | None = None,
    neutral_cosines: np.ndarray | None = None,
) -> np.ndarray:
    """The probability of each label for each picture, from 0 to 1: (n, labels) float32.

    Args:
        cosines: (n, labels), of the unit vectors of pictures and labels.
        scale: the manifest's `logit_scale`.
        bias: its `logit_bias`, None for a model that has none.
        multi_label: whether each label is judged by itself; if not, each row adds up to 1. None for what the
            model was trained to tell: True with a bias, False without.
        neutral_cosines: (n, m), of the pictures and NEUTRAL_LABELS in the same templates; only where
            `uses_neutral_labels`.
    """
    logits = scale * np.asarray(cosines, np.float64)
    if uses_neutral_labels(bias, multi_label):
        assert neutral_cosines is not None, "a model without a bias needs neutral labels"
        neutral = scale * np.asarray(neutral_cosines, np.float64)
        # The smallest softmax of two is the one against the neutral phrase with the highest logit.
        result = _sigmoid(logits - neutral.max(axis=1, keepdims=True))
    elif bias is not None and multi_label is not False:
        result = _sigmoid(logits + bias)
    else:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        result = powers / powers.sum(axis=1, keepdims=True)
    return result.astype(np.float32)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # By the hyperbolic tangent, which does not overflow.
    result: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return result
