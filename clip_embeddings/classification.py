"""Zero-shot classification: from a `ClassifyRequest` to the probability of each label for each picture.

engine/zero_shot.py has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from clip_embeddings.embedding import EmbedRequest, EmbedResult, TowerResult, check_tower, embed
from clip_embeddings.engine.model import Model
from clip_embeddings.engine.scheduler import no_check
from clip_embeddings.engine.zero_shot import (
    NEUTRAL_LABELS,
    label_vectors,
    probabilities,
    prompts,
    uses_neutral_labels,
)
from clip_embeddings.errors import ApiError
from clip_embeddings.logs import Timings
from clip_embeddings.memory import PROMPT_BYTES
from clip_embeddings.prompt_vectors import PromptVectors
from clip_embeddings.runtime import Runtime

# Of all models of this process.
_prompt_vectors = PromptVectors(PROMPT_BYTES)


class ClassifyRequest(EmbedRequest, frozen=True):
    """Pictures, and the labels to choose from. It has no texts; vectors always have length 1."""

    labels: Sequence[str] = ()
    # Each has the label in the place of "{}".
    templates: Sequence[str] = ("{}",)
    # Whether each label is judged by itself. None for what the model was trained to tell: see zero_shot.py.
    multi_label: bool | None = None
    # The name of the list of labels in the request, for messages.
    labels_field: str = "labels"


class ClassifyResult(EmbedResult, frozen=True):
    """The result of a `ClassifyRequest`, with the vectors of the pictures that it was computed from.

    `texts` has the fingerprint of the text tower, and no vectors.
    """

    # In the order of the pictures: from 0 to 1, in the order of the labels (labels,) float32, or the ApiError
    # of a picture that failed.
    probabilities: Sequence[np.ndarray | ApiError] = ()
    # Whether each label was judged by itself.
    multi_label: bool = False


def only_probabilities(result: ClassifyResult) -> np.ndarray:
    """The probabilities for the only picture: (labels,) float32. Raises its ApiError if it failed."""
    (row,) = result.probabilities
    if isinstance(row, ApiError):
        raise row.without_traceback()
    return row


def best_first(row: np.ndarray, count: int | None = None) -> Sequence[int]:
    """Indices of the highest of `row` (labels,), `count` of them or all, in order; equal ones in theirs."""
    order: Sequence[int] = np.argsort(-row, kind="stable")[:count].tolist()
    return order


def logit_scale(model: Model) -> float:
    """What the model multiplies cosines by. Raises ApiError 400 if its manifest does not have it."""
    manifest = model.manifest
    if manifest.logit_scale is None:
        raise ApiError(
            400,
            "scale_missing",
            f"The model {manifest.name!r} cannot tell probabilities: its manifest has no `logit_scale`. Bake "
            "it again with this version.",
        )
    return manifest.logit_scale


def classify(
    request: EmbedRequest,
    runtime: Runtime,
    timings: Timings,
    protocol: str = "classify",
    *,
    background: bool = False,
    check: Callable[[], None] = no_check,
) -> ClassifyResult:
    """The probability of each label of `request`, a `ClassifyRequest`, for each of its pictures.

    The vectors of labels are kept: a request whose labels and templates were seen lately runs no text.

    Raises:
        ApiError: as `embed`; 400 for a model without a tower or a scale, or for a prompt that is longer than
            the model reads. A picture that fails is an ApiError in the result.
    """
    assert isinstance(request, ClassifyRequest)
    model = runtime.choose(request.model, protocol)
    for tower in ("text", "image"):
        check_tower(model, tower, runtime)
    scale, bias = logit_scale(model), model.manifest.logit_bias

    def embed_prompts(texts: Sequence[str]) -> TowerResult:
        # Counted apart, so that stages do not overlap.
        own = Timings()
        text_request = EmbedRequest(texts, model=request.model, normalize=True, truncate=False)
        result = embed(text_request, runtime, own, protocol, background=background, check=check)
        timings.add("labels", own.milliseconds()["total"] / 1000)
        assert result.texts is not None
        return result.texts

    labels = list(request.labels)
    neutral = uses_neutral_labels(bias, request.multi_label)
    rows = _vectors_of_labels([*labels, *(NEUTRAL_LABELS if neutral else ())], request, model, embed_prompts)
    embedded = embed(
        msgspec.structs.replace(request, texts=(), normalize=True),
        runtime,
        timings,
        protocol,
        background=background,
        check=check,
    )
    assert embedded.images is not None
    results: list[np.ndarray | ApiError] = list(embedded.images.results)
    seen = {index: row for index, row in enumerate(results) if not isinstance(row, ApiError)}
    if seen:
        cosines = np.stack(list(seen.values())) @ rows.T
        computed = probabilities(
            cosines[:, : len(labels)],
            scale,
            bias,
            multi_label=request.multi_label,
            neutral_cosines=cosines[:, len(labels) :] if neutral else None,
        )
        for index, row in zip(seen, computed, strict=True):
            results[index] = row
    multi_label = bias is not None if request.multi_label is None else request.multi_label
    return ClassifyResult(
        embedded.model,
        embedded.dimensions,
        embedded.space,
        TowerResult((), model.manifest.towers["text"].fingerprint),
        embedded.images,
        results,
        multi_label,
    )


def _vectors_of_labels(
    labels: Sequence[str],
    request: ClassifyRequest,
    model: Model,
    embed_prompts: Callable[[Sequence[str]], TowerResult],
) -> np.ndarray:
    """The unit vectors of `labels` in the templates of `request`: (labels, d) float32.

    Raises:
        ApiError: that of the first prompt that failed, with its label's and its template's place.
    """
    fingerprint = model.manifest.towers["text"].fingerprint
    asked = [prompt for label in labels for prompt in prompts(label, request.templates)]
    vectors = _prompt_vectors.find(fingerprint, asked)
    if missing := [prompt for prompt in dict.fromkeys(asked) if prompt not in vectors]:
        made = {}
        for prompt, result in zip(missing, embed_prompts(missing).results, strict=True):
            if isinstance(result, ApiError):
                raise _prompt_error(result, *divmod(asked.index(prompt), len(request.templates)), request)
            made[prompt] = result
        _prompt_vectors.keep(fingerprint, made)
        vectors |= made
    return label_vectors(np.stack([vectors[prompt] for prompt in asked]), len(request.templates))


def _prompt_error(error: ApiError, label: int, template: int, request: ClassifyRequest) -> ApiError:
    place = f"{request.labels_field}[{label}]" if label < len(request.labels) else f"templates[{template}]"
    message = f"`{place}` in its template: {error.message}"
    return ApiError(error.status, error.code, message, retry_after=error.retry_after, where=f"$.{place}")
