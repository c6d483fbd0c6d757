"""How the services to compare with are started, and what each wants to be sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from tests.bench import payloads
from tests.bench.services import Payload, Service
from tests.support.photographs import detailed_12mp_jpeg

# The kinds of items, which are the rows of every table.
TEXT, PHOTO, LARGE = "short texts", "photos of 640x480", "photos of 12 megapixels"

_LISTEN = ("--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning")
# Nothing is downloaded and nobody is told.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def open_clip(python: str, checkpoint: Path) -> Service:
    """FastAPI + open_clip."""
    command = ("uvicorn", "tests.bench.fastapi_service:app", *_LISTEN)
    return Service("FastAPI + open_clip", command, {"CHECKPOINT": str(checkpoint)}, python=python)


def transformers(python: str, model: Path) -> Service:
    """FastAPI + transformers."""
    command = ("uvicorn", "tests.bench.peers.transformers_service:app", *_LISTEN)
    return Service("FastAPI + transformers", command, {"MODEL": str(model), **_OFFLINE}, python=python)


def infinity(python: str, model: Path) -> Service:
    """infinity-emb with the options that its last version needs today.

    Its cache of vectors stays off, as it is by default: the requests of a measurement are all alike.
    """
    command = (
        *(
            "tests.bench.peers.infinity_service",
            "v2",
            "--model-id",
            str(model),
            "--served-model-name",
            "clip",
        ),
        *("--engine", "torch", "--device", "cpu", "--no-model-warmup", "--no-bettertransformer"),
        *("--no-vector-disk-cache", *_LISTEN),
    )
    return Service("infinity-emb", command, _OFFLINE, python=python)


def native_payloads() -> Mapping[str, Payload]:
    """What this project and the services built on FastAPI are sent: JSON for a text, a form for a photo."""
    return {
        TEXT: payloads.texts(),
        PHOTO: payloads.upload(payloads.small_jpeg()),
        LARGE: payloads.upload(detailed_12mp_jpeg()),
    }


def infinity_payloads() -> Mapping[str, Payload]:
    """What infinity-emb is sent: the form of OpenAI's API, with photos as data URIs."""
    return {
        TEXT: _openai(payloads.SHORT_TEXT),
        PHOTO: _openai(_data_uri(payloads.small_jpeg()), modality="image"),
        LARGE: _openai(_data_uri(detailed_12mp_jpeg()), modality="image"),
    }


def _openai(item: str, **fields: str) -> Payload:
    body = json.dumps({"model": "clip", "input": [item], **fields}).encode()
    return Payload("/embeddings", "application/json", body)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
