"""What a million texts or photos cost at list prices: Cloud Run by measured time, Vertex AI by item.

List prices in USD without the free tier, as published in 2025:
- Cloud Run, a region of tier 1, billed by request: https://cloud.google.com/run/pricing. Time is rounded up
  to 100 ms.
- Vertex AI, multimodalembedding@001: https://cloud.google.com/vertex-ai/generative-ai/pricing.
"""

from __future__ import annotations

from math import ceil

CPU_SECOND = 0.000024
GIB_SECOND = 0.0000025
MILLION_REQUESTS = 0.40
BILLED_SECONDS = 0.1

VERTEX_IMAGE = 0.0001
VERTEX_1000_CHARACTERS = 0.0002


def apart(milliseconds: float, gib: float) -> float:
    """USD for a million requests that never overlap nor follow at once: each is rounded up by itself."""
    return _million(ceil(milliseconds / 1000 / BILLED_SECONDS) * BILLED_SECONDS, gib)


def busy(rate: float, gib: float) -> float:
    """USD for a million requests at `rate` a second on an instance that is never idle."""
    return _million(1 / rate, gib)


def vertex_text(characters: int) -> float:
    """USD for a million texts of so many characters."""
    return 1e6 * characters / 1000 * VERTEX_1000_CHARACTERS


def vertex_image() -> float:
    """USD for a million images."""
    return 1e6 * VERTEX_IMAGE


def _million(seconds: float, gib: float) -> float:
    return 1e6 * seconds * (CPU_SECOND + gib * GIB_SECOND) + MILLION_REQUESTS
