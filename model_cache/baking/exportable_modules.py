"""Modules of open_clip rewritten for the export: the same arithmetic in fewer operators.

They can be exported, but PyTorch cannot run them: attention is an operator of ONNX Runtime.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from model_cache.baking.torch_setup import import_open_clip


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mask: Tensor | None, heads: int
) -> Tensor:
    """ONNX Runtime's operator for attention, which takes the place of some fifteen basic ones.

    Args:
        query: (n, rows, width), without its bias; `key` and `value`: (n, length, width), likewise.
        bias: the biases of query, key and value, one after the other: (3 * width).
        mask: added to the scores: (rows, length), (n, 1, rows, length) or (n * heads, rows, length).
        heads: the number of heads, a divisor of the width.

    Returns:
        (n, rows, width), the heads side by side.
    """
    if mask is not None and mask.dim() < 4:
        mask = mask[None, None] if mask.dim() == 2 else mask.reshape(-1, heads, *mask.shape[1:])
    return torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        # The input left out is a mask of whole keys.
        [query, key, value, bias, None, mask],
        {"num_heads": heads},
        dtype=query.dtype,
        shape=query.shape,
        version=1,
    )


class SelfAttention(nn.Module):
    """nn.MultiheadAttention applied to one tensor."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.weight, self.bias = source.in_proj_weight, source.in_proj_bias
        self.out = source.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor]:
        """(n, length, width) -> (n, length, width). Query, key and value are the same tensor."""
        q, k, v = (query @ self.weight.T).chunk(3, dim=-1)
        return (self.out(multi_head_attention(q, k, v, self.bias, attn_mask, self.heads)),)


class PooledBlock(nn.Module):
    """A residual attention block for the last position: it computes only the row that is pooled."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source
        width, weight = source.attn.out.in_features, source.attn.weight
        self.query, self.key_value = nn.Parameter(weight[:width]), nn.Parameter(weight[width:])

    def forward(self, x: Tensor, rows: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        """(n, length, width) -> (n, 1, width): row `rows[i]` of sequence i, by default its first."""
        block: Any = self.source
        sequences = torch.arange(x.shape[0])
        normed = block.ln_1(x)
        pooled = normed[:, 0] if rows is None else normed[sequences, rows]
        q = (pooled @ self.query.T)[:, None]
        k, v = (normed @ self.key_value.T).chunk(2, dim=-1)
        mask = None if attn_mask is None else attn_mask[rows][:, None, None]
        mixed = multi_head_attention(q, k, v, block.attn.bias, mask, block.attn.heads)[:, 0]
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
