"""Modules of open_clip rewritten for the export: the same arithmetic in basic operators.

The attribute names below are part of the exported graph's tensor names.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from model_cache.baking.torch_setup import import_open_clip


class SelfAttention(nn.Module):
    """nn.MultiheadAttention applied to one tensor, written so that it exports as a few basic operators."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = source.num_heads
        width = source.embed_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight = source.in_proj_weight
        self.qkv.bias = source.in_proj_bias
        self.out = source.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor]:
        """(n, length, width) -> (n, length, width). Query, key and value are the same tensor."""
        batch, length, width = query.shape
        heads = self.qkv(query).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            # The mask is (length, length) or (n * heads, length, length).
            scores = scores + (
                attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(batch, self.heads, length, length)
            )
        mixed = scores.softmax(dim=-1) @ v
        return (self.out(mixed.transpose(1, 2).reshape(batch, length, width)),)


class PooledBlock(nn.Module):
    """A residual attention block for the last position: it computes only the row that is pooled."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source
        width, attention = source.attn.qkv.in_features, source.attn.qkv
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.query.weight = nn.Parameter(attention.weight[:width])
        self.query.bias = nn.Parameter(attention.bias[:width])
        self.key_value.weight = nn.Parameter(attention.weight[width:])
        self.key_value.bias = nn.Parameter(attention.bias[width:])

    def forward(self, x: Tensor, rows: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        """(n, length, width) -> (n, 1, width): row `rows[i]` of sequence i, by default its first."""
        block: Any = self.source
        batch, length, width = x.shape
        heads = block.attn.heads
        sequences = torch.arange(batch)
        normed = block.ln_1(x)
        q = self.query(normed[:, 0] if rows is None else normed[sequences, rows])
        q = q.reshape(batch, heads, 1, width // heads)
        k, v = self.key_value(normed).reshape(batch, length, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // heads) ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores + attn_mask[rows][:, None, None]
        mixed = (scores.softmax(dim=-1) @ v).reshape(batch, width)
        x = (x[:, 0] if rows is None else x[sequences, rows]) + block.ls_1(block.attn.out(mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return x[:, None]


class CausalTextModule(nn.Module):
    """A causal text tower. Its ids may be cut anywhere after the end token of the longest text."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ids (n, length) -> projections (n, d), not normalized."""
        tower: Any = self.tower
        length = ids.shape[1]
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        mask, rows = tower.attn_mask[:length, :length], ids.argmax(dim=-1)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = block(x, attn_mask=mask)
        if isinstance(last, PooledBlock):
            pooled = last(x, rows, mask)[:, 0]
        else:
            pooled = last(x, attn_mask=mask)[torch.arange(x.shape[0]), rows]
        # Layer norm is computed per row, so that only the pooled row needs it.
        x = tower.ln_final(pooled)
        projection = tower.text_projection
        projected: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return projected


class TextModule(nn.Module):
    """Any other text tower. It takes the ids of its tokenizer, with `removed_id` replaced by 0."""

    def __init__(self, model: nn.Module, removed_id: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.removed_id = removed_id

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ids (n, length) -> projections (n, d), not normalized."""
        if self.removed_id is not None:
            ids = torch.where(ids == self.removed_id, 0, ids)
        return self.model.encode_text(ids)  # type: ignore[operator, no-any-return]


class ImageModule(nn.Module):
    """An image tower."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (n, 3, h, w) -> projections (n, d), not normalized."""
        return self.model.encode_image(pixels)  # type: ignore[operator, no-any-return]


def exportable_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` with SelfAttention in its residual blocks; it shares the weights of `model`."""
    memo = {id(p): p for p in (*model.parameters(), *model.buffers())}
    import_open_clip()
    from open_clip.transformer import ResidualAttentionBlock

    copied = copy.deepcopy(model, memo)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            # The attention of a pooler is excluded: its query is another tensor than its keys.
            in_block = isinstance(module, ResidualAttentionBlock)
            if in_block and isinstance(child, nn.MultiheadAttention) and child.batch_first:
                setattr(module, name, SelfAttention(child))
    return copied


def compute_pooled_row_only(transformer: Any) -> None:
    """Replace the last block by a PooledBlock, if it is of the type whose arithmetic PooledBlock repeats."""
    import_open_clip()
    from open_clip.transformer import ResidualAttentionBlock

    last = transformer.resblocks[-1]
    if type(last) is ResidualAttentionBlock and isinstance(last.attn, SelfAttention):
        transformer.resblocks[-1] = PooledBlock(last)
