"""The identifier of an embedding space: two models share it only if they have the same weights."""

from __future__ import annotations

import hashlib
import json

from torch import nn


def space_id(description: object, *models: nn.Module) -> str:
    """16 hexadecimal digits that change when any weight changes, or `description`, a JSON value."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for model in models:
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]
