"""Image towers of timm, such as DINOv2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from clip_embeddings.engine.manifest import Preprocess
from model_cache.baking import hub
from model_cache.baking.checkpoints import Checkpoint, ImageSource
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.spaces import space_of
from model_cache.baking.torch_setup import import_open_clip


def load(architecture: str, preprocess: Preprocess, checkpoint: Path | None = None) -> Checkpoint:
    """An image-only model; its vectors are used as they are, not normalised.

    Args:
        architecture: as timm spells it, with the pretrained tag after a dot.
        preprocess: how its users prepare pictures, which timm does not know.
        checkpoint: a local state dict to load instead of a download.

    Raises:
        BakeError: a file that cannot be read or belongs to another architecture, no network.
    """
    # For the fix of torchvision, which timm imports too.
    import_open_clip()
    import timm

    if checkpoint is None:
        repository = f"timm/{architecture}"
        checkpoint = hub.download(
            f"The weights of {architecture}", repository, "model.safetensors", "pytorch_model.bin"
        )
    if not checkpoint.is_file():
        raise BakeError(f"No checkpoint at {checkpoint}.")
    try:
        # timm stretches the positions of weights made for larger pictures.
        model = timm.create_model(
            architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(checkpoint)},
            img_size=preprocess.size,
            num_classes=0,
        )
    except Exception as error:
        raise BakeError(
            f"{checkpoint.name} is not a checkpoint of {architecture}: {root_cause(error)}"
        ) from None
    model = model.float().eval()
    name, _, tag = architecture.partition(".")
    return Checkpoint(
        architecture=name,
        pretrained=tag,
        quick_gelu=False,
        space=space_of(architecture, model),
        text=None,
        image=partial(_image, model, preprocess),
        normalize=False,
    )


def _image(model: Any, preprocess: Preprocess) -> ImageSource:
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

    return ImageSource(model, preprocess, encode)
