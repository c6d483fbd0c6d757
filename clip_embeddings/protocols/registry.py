"""The client protocols, by the name that the setting PROTOCOL_MODELS gives them, and the modules that speak
them.

Adding one takes a module beside this file, which defines `PROTOCOL`, and a line here. This module needs the
standard library only, because settings and deploying read it too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clip_embeddings.protocols.base import Protocol

PROTOCOLS = {
    "native": "clip_embeddings.protocols.native",
    "notebook": "clip_embeddings.protocols.notebook",
    "photo-app": "clip_embeddings.protocols.photo_app",
    "encoder": "clip_embeddings.protocols.encoder",
}


def load_protocols() -> list[Protocol]:
    """Every protocol, imported."""
    return [import_module(module).PROTOCOL for module in PROTOCOLS.values()]
