"""From a torch model to ONNX graphs: the two towers, plain and optimised."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor, nn

from functions.engine.manifest import TextSpec
from functions.engine.tokenizer import CLEANERS
from model_cache.checkpoints import Checkpoint
from model_cache.errors import BakeError, root_cause
from model_cache.torch_setup import import_open_clip

# The first that knows Gelu as one operator.
OPSET = 20


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


class PaddedText(nn.Module):
    """Any other text tower, at its full context length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.encode_text(ids)  # type: ignore[operator, no-any-return]


class Image(nn.Module):
    """The image tower: normalised pixels to the raw projection."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)  # type: ignore[operator, no-any-return]


def text_spec(checkpoint: Checkpoint) -> TextSpec:
    """How the checkpoint's own tokenizer makes ids. Raises BakeError for one that is not CLIP's."""
    tokenizer = checkpoint.tokenizer
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "").removeprefix("_clean_")
    if not hasattr(tokenizer, "bpe_ranks") or clean not in CLEANERS or tokenizer.reduction_fn:
        raise BakeError(
            f"The text tower of {checkpoint.architecture} has a tokenizer that cannot be baked yet; "
            "--towers image bakes its image tower."
        )
    vocabulary = _text_tower(checkpoint.model).token_embedding.num_embeddings
    if vocabulary < tokenizer.vocab_size:
        raise BakeError(
            f"The text tower of {checkpoint.architecture} has {vocabulary:,} token vectors, its tokenizer "
            f"makes {tokenizer.vocab_size:,} different tokens."
        )
    return TextSpec(
        context_length=tokenizer.context_length,
        trim=_causal(_text_tower(checkpoint.model)),
        clean=clean,
        start_id=tokenizer.sot_token_id,
        end_id=tokenizer.eot_token_id,
        pad_id=0,
    )


def export_text(checkpoint: Checkpoint, spec: TextSpec, path: Path) -> None:
    """Write the text tower: int64 ids (n, length) -> float32 projections (n, d)."""
    model = _plain(checkpoint.model)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=spec.context_length)
    sample = checkpoint.tokenizer(["a cat", "two small dogs in the snow"])
    if spec.trim:
        tower = _text_tower(model)
        _pool_last(tower.transformer)
        _export(CausalText(tower), sample[:, :9], {"ids": {0: batch, 1: length}}, path)
    else:
        _export(PaddedText(model), sample, {"ids": {0: batch}}, path)


def export_image(checkpoint: Checkpoint, path: Path) -> None:
    """Write the image tower: float32 pixels (n, 3, h, w) -> float32 projections (n, d)."""
    sample = torch.zeros(2, 3, *checkpoint.preprocess.size)
    model: Any = _plain(checkpoint.model)
    if getattr(model.visual, "pool_type", "") == "tok" and model.visual.attn_pool is None:
        _pool_last(model.visual.transformer)
    _export(Image(model), sample, {"pixels": {0: torch.export.Dim("batch")}}, path)


def optimise(source: Path, target: Path) -> None:
    """Write `source` with ONNX Runtime's fusions applied, as far as they hold on every x86-64 CPU."""
    options = ort.SessionOptions()
    # The next level, ALL, lays tensors out for this machine's CPU.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    _rewrite(source, target, options)


def split_weights(source: Path, target: Path) -> None:
    """Write the graph of `source` to `target`, its weights to a `.data` file beside it.

    ONNX Runtime maps such a file where it would parse and copy the weights of a graph that holds them.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    external = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{external}_file_name", target.with_suffix(".data").name)
    options.add_session_config_entry(f"{external}_min_size_in_bytes", "1024")
    _rewrite(source, target, options)


def _rewrite(source: Path, target: Path, options: ort.SessionOptions) -> None:
    """Have ONNX Runtime write `source` to `target` as it would run it."""
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BakeError(
            f"ONNX Runtime cannot write {target}: {root_cause(error)}. Is there room on the disk?"
        ) from error


def _text_tower(model: Any) -> Any:
    # open_clip keeps the parts of a plain CLIP's text tower on the model itself.
    return model if hasattr(model, "token_embedding") else model.text


def _causal(tower: Any) -> bool:
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool == "argmax"
        and tower.text_projection is not None
    )


def _plain(model: nn.Module) -> nn.Module:
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


def _pool_last(transformer: Any) -> None:
    """Have the last block compute the pooled row only, if it is one whose arithmetic we know."""
    import_open_clip()
    from open_clip.transformer import ResidualAttentionBlock

    last = transformer.resblocks[-1]
    if type(last) is ResidualAttentionBlock and isinstance(last.attn, Attention):
        transformer.resblocks[-1] = PooledBlock(last)


def _export(module: nn.Module, sample: Tensor, shapes: dict[str, Any], path: Path) -> None:
    (name,) = shapes
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                (sample,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[name],
                output_names=["projection"],
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise BakeError(
                f"PyTorch cannot export this tower: {root_cause(error)}. Please report this architecture."
            ) from error
    assert program is not None
    program.save(path)
