"""The towers as they are exported: the arithmetic of open_clip's modules in plain operators."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from model_cache.baking.torch_setup import import_open_clip


class Attention(nn.Module):
    """nn.MultiheadAttention's own arithmetic, written so that it exports as a few plain operators."""

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
        # Both towers attend to themselves only: query, key and value are the same tensor.
        batch, length, width = query.shape
        heads = self.qkv(query).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            # One mask for all, or one for each head of each row.
            scores = scores + (
                attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(batch, self.heads, length, length)
            )
        mixed = scores.softmax(dim=-1) @ v
        return (self.out(mixed.transpose(1, 2).reshape(batch, length, width)),)


class PooledBlock(nn.Module):
    """A residual attention block for the last place: it computes just the row that gets pooled."""

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
        """(n, length, width) -> (n, 1, width): of each sequence the first row, or the one `rows` says."""
        block: Any = self.source
        batch, length, width = x.shape
        heads = block.attn.heads
        every = torch.arange(batch)
        normed = block.ln_1(x)
        q = self.query(normed[:, 0] if rows is None else normed[every, rows])
        q = q.reshape(batch, heads, 1, width // heads)
        k, v = self.key_value(normed).reshape(batch, length, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // heads) ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores + attn_mask[rows][:, None, None]
        mixed = (scores.softmax(dim=-1) @ v).reshape(batch, width)
        x = (x[:, 0] if rows is None else x[every, rows]) + block.ls_1(block.attn.out(mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return x[:, None]


class CausalText(nn.Module):
    """A causal text tower that takes token ids cut anywhere after the longest text's end token."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
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
        # Layer norm works row by row, so only the pooled row needs it.
        x = tower.ln_final(pooled)
        projection = tower.text_projection
        projected: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return projected


class Text(nn.Module):
    """Any other text tower, its ids as its tokenizer makes them but for the token `dropped`."""

    def __init__(self, model: nn.Module, dropped: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.dropped = dropped

    def forward(self, ids: Tensor) -> Tensor:
        if self.dropped is not None:
            ids = torch.where(ids == self.dropped, 0, ids)
        return self.model.encode_text(ids)  # type: ignore[operator, no-any-return]


class Pixels(nn.Module):
    """The image tower: normalised pixels to the raw projection."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)  # type: ignore[operator, no-any-return]


def plain(model: nn.Module) -> nn.Module:
    """A copy of `model` whose attention exports plainly; the weights are shared."""
    memo = {id(p): p for p in (*model.parameters(), *model.buffers())}
    import_open_clip()
    from open_clip.transformer import ResidualAttentionBlock

    copied = copy.deepcopy(model, memo)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            # A pooler's attention takes its query from elsewhere.
            to_itself = isinstance(module, ResidualAttentionBlock)
            if to_itself and isinstance(child, nn.MultiheadAttention) and child.batch_first:
                setattr(module, name, Attention(child))
    return copied


def pool_last(transformer: Any) -> None:
    """Have the last block compute the pooled row only, if it is one whose arithmetic we know."""
    import_open_clip()
    from open_clip.transformer import ResidualAttentionBlock

    last = transformer.resblocks[-1]
    if type(last) is ResidualAttentionBlock and isinstance(last.attn, Attention):
        transformer.resblocks[-1] = PooledBlock(last)
