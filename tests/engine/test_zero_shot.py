"""Probabilities of zero-shot classification, compared with the formulas of open_clip and of Hugging Face in
torch, on real vectors of the bundled model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_embeddings.engine.zero_shot import (
    NEUTRAL_LABELS,
    label_vectors,
    probabilities,
    prompts,
    uses_neutral_labels,
)
from tests.support.pictures import picture
from tests.support.vectors import raw_images, raw_texts

LABELS = ("cat", "rocket", "cup of coffee", "birthday cake")
TEMPLATES = ("{}", "a photo of a {}.", "this shows {}")
SCALES = (1.0, 17.3, 100.0)


def _reference_vectors(labels: tuple[str, ...]) -> torch.Tensor:
    """open_clip's build_zero_shot_classifier: normalize, mean over the templates, normalize."""
    classes = []
    for label in labels:
        rows = torch.from_numpy(raw_texts(*(template.format(label) for template in TEMPLATES)))
        mean = torch.nn.functional.normalize(rows, dim=-1).mean(dim=0)
        classes.append(mean / mean.norm())
    return torch.stack(classes)


def _pictures() -> torch.Tensor:
    pictures = [picture(name) for name in ("chelsea", "rocket", "coffee", "astronaut")]
    return torch.nn.functional.normalize(torch.from_numpy(raw_images(*pictures)), dim=-1)


def _vectors(labels: tuple[str, ...]) -> np.ndarray:
    texts = [prompt for label in labels for prompt in prompts(label, TEMPLATES)]
    return label_vectors(raw_texts(*texts), len(TEMPLATES))


def _assert_close(actual: np.ndarray, expected: torch.Tensor) -> None:
    assert actual.dtype == np.float32
    assert np.abs(actual - expected.numpy()).max() <= 1e-5


def test_the_vector_of_a_label_is_open_clips() -> None:
    _assert_close(_vectors(LABELS), _reference_vectors(LABELS))


@pytest.mark.parametrize("scale", SCALES)
def test_without_a_bias_the_labels_share_one_softmax(scale: float) -> None:
    pictures, labels = _pictures(), _reference_vectors(LABELS)

    actual = probabilities((pictures @ labels.T).numpy(), scale)

    _assert_close(actual, (scale * pictures @ labels.T).softmax(dim=-1))
    assert np.abs(actual.sum(axis=1) - 1).max() <= 1e-6


@pytest.mark.parametrize("scale", SCALES)
def test_with_a_bias_each_label_has_its_sigmoid(scale: float) -> None:
    cosines = _pictures() @ _reference_vectors(LABELS).T

    for multi_label in (None, True):
        actual = probabilities(cosines.numpy(), scale, -12.9, multi_label=multi_label)
        _assert_close(actual, torch.sigmoid(scale * cosines - 12.9))

    _assert_close(
        probabilities(cosines.numpy(), scale, -12.9, multi_label=False),
        (scale * cosines - 12.9).softmax(dim=-1),
    )


@pytest.mark.parametrize("scale", SCALES)
def test_several_labels_without_a_bias_are_compared_with_neutral_phrases(scale: float) -> None:
    """The relevancy score of LERF: the smallest softmax of a label and one canonical phrase."""
    pictures, labels, neutral = _pictures(), _reference_vectors(LABELS), _reference_vectors(NEUTRAL_LABELS)
    pairs = torch.stack(
        [
            (pictures @ labels.T)[:, :, None].expand(-1, -1, len(neutral)),
            (pictures @ neutral.T)[:, None, :].expand(-1, len(labels), -1),
        ]
    )

    actual = probabilities(
        (pictures @ labels.T).numpy(), scale, multi_label=True, neutral_cosines=(pictures @ neutral.T).numpy()
    )

    _assert_close(actual, (scale * pairs).softmax(dim=0)[0].min(dim=-1).values)


def test_neutral_phrases_are_needed_only_where_a_model_has_no_bias() -> None:
    assert uses_neutral_labels(None, True)
    assert not any(uses_neutral_labels(None, multi_label) for multi_label in (None, False))
    assert not any(uses_neutral_labels(-10.0, multi_label) for multi_label in (None, False, True))


def test_a_large_scale_overflows_nowhere() -> None:
    cosines = np.array([[1.0, -1.0]], np.float32)

    assert probabilities(cosines, 1e4).tolist() == [[1, 0]]
    assert probabilities(cosines, 1e4, 0.0).tolist() == [[1, 0]]
