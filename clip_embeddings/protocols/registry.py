"""The client protocols: the name that the setting PROTOCOL_MODELS gives each, and its module.

Adding one takes a module beside this file, which defines `PROTOCOL`, and a line here. This module needs the
standard library only, because settings and deploying read it too.
"""

from __future__ import annotations

PROTOCOLS = {
    "native": "clip_embeddings.protocols.native",
    "notebook": "clip_embeddings.protocols.notebook",
    "photo-app": "clip_embeddings.protocols.photo_app",
    "encoder": "clip_embeddings.protocols.encoder",
    "openai": "clip_embeddings.protocols.openai",
    "ollama": "clip_embeddings.protocols.ollama",
    "cohere": "clip_embeddings.protocols.cohere",
    "vertex": "clip_embeddings.protocols.vertex",
    "gemini": "clip_embeddings.protocols.gemini",
    "bigquery": "clip_embeddings.protocols.bigquery",
    "classify": "clip_embeddings.protocols.classify",
    # Before tei, whose `inputs` it shares.
    "huggingface": "clip_embeddings.protocols.huggingface",
    "tei": "clip_embeddings.protocols.tei",
    "weaviate": "clip_embeddings.protocols.weaviate",
    "immich": "clip_embeddings.protocols.immich",
}
