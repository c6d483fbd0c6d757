"""Loads image models of timm, such as DINOv2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from clip_embeddings.engine.manifest import Preprocess
from model_cache.baking import hub
from model_cache.baking.catalogue import ModelSource
from model_cache.baking.checkpoints import Checkpoint, TorchImageTower
from model_cache.baking.embedding_space import space_id
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.torch_setup import import_open_clip


def load(source: ModelSource) -> Checkpoint:
    """Load an image-only model. Its vectors are used without normalization.

    `source.name` is the architecture as timm spells it, with the pretrained tag after a dot;
    `source.preprocess` is required; `source.checkpoint` is a local state dict.

    Raises:
        BakeError: a file that cannot be read or belongs to another architecture, no network.
    """
    architecture, preprocess = source.name, source.preprocess
    assert preprocess is not None, f"the catalogue has no preprocessing for {architecture}"
    # timm imports torchvision, and this makes it importable.
    import_open_clip()
    import timm

    path = source.checkpoint or hub.download(
        f"The weights of {architecture}", f"timm/{architecture}", "model.safetensors", "pytorch_model.bin"
    )
    if not path.is_file():
        raise BakeError(f"No checkpoint at {path}.")
    try:
        # timm resizes the position embeddings of weights made for larger images.
        model = timm.create_model(
            architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path)},
            img_size=preprocess.size,
            num_classes=0,
        )
    except Exception as error:
        raise BakeError(f"{path.name} is not a checkpoint of {architecture}: {root_cause(error)}") from None
    model = model.float().eval()
    name, _, tag = architecture.partition(".")
    return Checkpoint(
        architecture=name,
        pretrained=tag,
        quick_gelu=False,
        space=space_id(architecture, model),
        text=None,
        image=partial(_image_tower, model, preprocess),
        normalize=False,
    )


def _image_tower(model: Any, preprocess: Preprocess) -> TorchImageTower:
    def encode(images: Sequence[Image]) -> Tensor:
        from torchvision import transforms

        interpolation = transforms.InterpolationMode(preprocess.interpolation)
        transform = transforms.Compose(
            [
                transforms.Resize(preprocess.resize or min(preprocess.size), interpolation),
                transforms.CenterCrop(preprocess.size),
                lambda image: image.convert("RGB"),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )
        encoded: Tensor = model(torch.stack([transform(image) for image in images]))
        return encoded

    return TorchImageTower(model, preprocess, encode)
