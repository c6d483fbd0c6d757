"""Lets images be decoded within the CPUs and the memory that all requests share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from clip_embeddings.config import ImageSettings
from clip_embeddings.images.headers import read_header
from clip_embeddings.images.limits import (
    PixelQuota,
    check_size,
    decoding_bytes,
    reduction,
    too_much_memory,
)
from clip_embeddings.semaphore import FairSemaphore, OverloadedError

if TYPE_CHECKING:
    from PIL import Image


class ImageDecoder(msgspec.Struct, frozen=True):
    """Decodes images, each in its turn."""

    settings: ImageSettings
    # Pixels of one image.
    max_pixels: int
    # Seconds that decoding one image may take.
    timeout: float
    # Bytes that images may take while they are decoded and resized.
    memory: FairSemaphore
    # One for each CPU.
    slots: FairSemaphore

    @contextmanager
    def admit(
        self,
        data: bytes,
        target: int,
        *,
        settings: ImageSettings | None = None,
        quota: PixelQuota | None = None,
        deadline: float | None = None,
    ) -> Iterator[Callable[[], Image.Image]]:
        """Wait until there are memory and a CPU for decoding `data`; yield the function that decodes it.

        The memory is held during the `with` block, in which the image should be resized.

        Args:
            data: the file, which may be hostile.
            target: shorter side of what the image will be resized to, in pixels.
            settings: instead of those of the decoder.
            quota: counts the pixels of a request.
            deadline: of time.monotonic(); an image that has no turn by then is not decoded. None waits.

        Raises:
            ApiError: as `decode_image`, from here or from the function; 413 `image_too_many_pixels` also if
                there can never be enough memory, 413 `request_too_many_pixels`.
            OverloadedError: there was no turn until the deadline.
        """
        settings = settings or self.settings
        header = read_header(data)
        check_size(header.width, header.height, self.max_pixels)
        needed = decoding_bytes(header, data, settings, target)
        if needed > self.memory.width:
            raise too_much_memory(header, needed, self.memory.width)
        if quota is not None:
            # A JPEG costs least, and less still at reduced size; measured in docs/performance.md.
            quota.take(header.pixels // (4 if reduction(header, settings, target) > 1 else 1))
        needed = min(needed + header.rare_bytes, self.memory.width)
        background = deadline is None
        with (
            self.memory.acquire(needed, background=background, timeout=_seconds_left(deadline)),
            self.slots.acquire(background=background, timeout=_seconds_left(deadline)),
        ):
            # Imported late: a process that embeds only texts needs no Pillow.
            from clip_embeddings.images.decoding import decode_image

            yield lambda: decode_image(
                data, settings=settings, max_pixels=self.max_pixels, target=target, timeout=self.timeout
            )


def _seconds_left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise OverloadedError
    return seconds
