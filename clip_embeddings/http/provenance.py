"""Response headers that say which model made the vectors of a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from clip_embeddings.embedding import EmbedResult

HEADERS = (
    "Embedding-Model",
    "Embedding-Dimensions",
    "Embedding-Space",
    "Embedding-Fingerprint",
    "Embedding-Truncated",
)
# The header with the stable code of an error, in every protocol.
ERROR_CODE = "Embedding-Error-Code"
# A proxy may refuse a response with long headers.
MAX_INDICES = 100


def provenance_headers(result: EmbedResult) -> dict[str, str]:
    """The headers for a result. With two towers, `Embedding-Fingerprint` is `text=...,image=...`."""
    towers = [(name, part) for name, part in (("text", result.texts), ("image", result.images)) if part]
    fingerprints = [part.fingerprint for _, part in towers]
    if len(towers) > 1:
        fingerprints = [f"{name}={part.fingerprint}" for name, part in towers]
    return make_headers(
        model=result.model,
        dimensions=result.dimensions,
        space=result.space,
        fingerprint=",".join(fingerprints),
        truncated=result.texts.truncated if result.texts else (),
    )


def make_headers(
    *, model: str | None, dimensions: int, space: str, fingerprint: str, truncated: Sequence[int] = ()
) -> dict[str, str]:
    """The headers by name; values are percent-encoded ASCII. `truncated` are indices of shortened texts."""
    values: Mapping[str, str | None] = {
        "Embedding-Model": model,
        "Embedding-Dimensions": str(dimensions),
        "Embedding-Space": space,
        "Embedding-Fingerprint": fingerprint,
        "Embedding-Truncated": ",".join(map(str, truncated[:MAX_INDICES])) or None,
    }
    return {name: quote(value, safe="/:=,") for name, value in values.items() if value}
