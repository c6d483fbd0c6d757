"""Training pictures: emoji at random sizes, positions and angles on random backgrounds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from model_cache.demo.emoji import CANVAS, GLYPH, DrawnEmoji

SIZE = 64
_CANVASES = (140, CANVAS, 192, 248)  # the larger the canvas, the smaller the emoji in the picture
_CANVAS_SHARES = (0.2, 0.45, 0.2, 0.15)
_STRAIGHT_SHARE = 0.3  # emoji without rotation or scaling, as they are in most pictures
_JPEG_SHARE = 0.3
_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)


class PictureSampler:
    """Draws random training pictures of emoji, from small bitmaps in memory."""

    def __init__(self, emoji: Sequence[DrawnEmoji], seed: int) -> None:
        # [emoji, canvas, 4, SIZE, SIZE]; colors are premultiplied by alpha, so that they can be interpolated.
        bitmaps = [_bitmap(one, side) for one in emoji for side in _CANVASES]
        self._bitmaps = torch.stack(bitmaps).view(len(emoji), len(_CANVASES), 4, SIZE, SIZE)
        self._torch = torch.Generator().manual_seed(seed)
        self._numpy = np.random.default_rng(seed)

    def draw(self, indices: Tensor) -> Tensor:
        """Normalized pixels, float32 [len(indices), 3, SIZE, SIZE], of the emoji with these indices."""
        count = len(indices)
        shares = torch.tensor(_CANVAS_SHARES)
        canvases = torch.multinomial(shares, count, replacement=True, generator=self._torch)
        bitmaps = self._bitmaps[indices, canvases].float() / 255
        bitmaps = self._move(bitmaps)
        pixels = bitmaps[:, :3] + (1 - bitmaps[:, 3:]) * self._backgrounds(count)
        pixels = self._jitter(pixels).clamp(0, 1)
        for row in torch.nonzero(self._uniform(count) < _JPEG_SHARE).flatten().tolist():
            pixels[row] = self._jpeg(pixels[row])
        return (pixels - _MEAN) / _STD

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._torch)

    def _move(self, bitmaps: Tensor) -> Tensor:
        count = len(bitmaps)
        straight = self._uniform(count) < _STRAIGHT_SHARE
        angle = torch.where(straight, 0.0, (self._uniform(count) - 0.5) * 0.6)  # +-17 degrees
        scale = torch.where(straight, 1.0, 0.85 + 0.35 * self._uniform(count))
        shift = (self._uniform(count, 2) - 0.5) * 0.3
        # Shifts by whole pixels keep straight emoji sharp; 40 % of these stay in the center.
        whole_pixels = (shift * SIZE / 2).round() / (SIZE / 2) * (self._uniform(count, 1) < 0.6)
        shift = torch.where(straight[:, None], whole_pixels, shift)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(count, 2, 3)
        grid = functional.affine_grid(rows, [count, 4, SIZE, SIZE], align_corners=False)
        return functional.grid_sample(bitmaps, grid, align_corners=False)

    def _backgrounds(self, count: int) -> Tensor:
        """White, one color, a gradient, or noise of any coarseness: [count, 3, SIZE, SIZE]."""
        backgrounds = torch.ones(count, 3, SIZE, SIZE)
        kinds = self._uniform(count)
        for row, kind in enumerate(kinds.tolist()):
            if kind < 0.4:
                continue
            # One cell is a single color, 2x2 cells are a gradient, more cells are noise.
            cells = 1 if kind < 0.6 else 2 if kind < 0.75 else int(4 * 16 ** ((kind * 20) % 1))
            colors = self._uniform(1, 3, cells, cells)
            if cells > 2:
                colors = self._uniform(1, 3, 1, 1) + (colors - 0.5) * self._uniform(1)
            mode = "nearest" if kind > 0.85 else "bilinear"
            backgrounds[row] = functional.interpolate(colors, (SIZE, SIZE), mode=mode)[0]
        return backgrounds

    def _jitter(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        contrast = 1 + (self._uniform(count, 1, 1, 1) - 0.5) * 0.3
        brightness = (self._uniform(count, 1, 1, 1) - 0.5) * 0.15
        tint = (self._uniform(count, 3, 1, 1) - 0.5) * 0.06
        changed = (pixels - 0.5) * contrast + 0.5 + brightness + tint
        return torch.where(self._uniform(count, 1, 1, 1) < 0.5, changed, pixels)

    def _jpeg(self, pixels: Tensor) -> Tensor:
        buffer = io.BytesIO()
        array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(buffer, "JPEG", quality=int(self._numpy.integers(40, 96)))
        decoded = np.array(Image.open(buffer), dtype=np.float32) / 255
        return torch.from_numpy(decoded).permute(2, 0, 1)


def _bitmap(emoji: DrawnEmoji, side: int) -> Tensor:
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(emoji.glyph, ((side - GLYPH[0]) // 2, (side - GLYPH[1]) // 2))
    small = canvas.convert("RGBa").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    # Pillow cannot convert "RGBa" (premultiplied) to an array, so that its bytes are read instead.
    array = np.frombuffer(small.tobytes(), dtype=np.uint8).reshape(SIZE, SIZE, 4)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)
