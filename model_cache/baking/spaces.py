"""The identity of a checkpoint, from its weights."""

from __future__ import annotations

import hashlib
import json

from torch import nn


def space_of(description: object, *models: nn.Module) -> str:
    """16 hexadecimal digits that change when any weight does, or `description`, which must be JSON."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for model in models:
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]
