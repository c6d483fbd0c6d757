"""Random ViT-B/32 weights in the forms that other services read: a Hugging Face folder, and ONNX graphs.

Hugging Face's CLIP has the quick-GELU activation by default. It gets GELU here, as open_clip's ViT-B-32 has,
so that every service computes the same thing.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model_cache.baking.torch_setup import import_open_clip
from tests.bench.measure import Progress
from tests.bench.weights import BUILD

# Architecture of ViT-B/32: sizes of tokens, of a patch, of the vectors. The rest are transformers' defaults.
_PATCH, _DIMENSIONS, _CONTEXT = 32, 512, 77
# open_clip's file holds more merges than CLIP uses: 49,152 tokens less 2 x 256 bytes and two special tokens.
_MERGES = 49_152 - 2 * 256 - 2


def hugging_face(progress: Progress) -> Path:
    """A folder with configuration, random weights, tokenizer and image processor of a CLIP model."""
    return _made(BUILD / "peer-models" / "hugging-face", _make_hugging_face, progress)


def fastembed(progress: Progress) -> Path:
    """A folder with the folders `text` and `image`, each as fastembed's `specific_model_path` wants it."""
    source = hugging_face(progress)
    return _made(BUILD / "peer-models" / "fastembed", lambda folder: _export(source, folder), progress)


def _made(folder: Path, make: Callable[[Path], None], progress: Progress) -> Path:
    """`folder`, filled by `make` if it does not exist."""
    if not folder.exists():
        progress(f"making random weights for {folder.name} ...")
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        # The exporter warns of what it renames, and shows each of its steps.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            make(unfinished)
        unfinished.rename(folder)
    return folder


def _make_hugging_face(folder: Path) -> None:
    import torch

    transformers = _transformers()

    tower = {"hidden_act": "gelu", "projection_dim": _DIMENSIONS}
    config = transformers.CLIPConfig(
        text_config={**tower, "max_position_embeddings": _CONTEXT},
        vision_config={**tower, "patch_size": _PATCH},
        projection_dim=_DIMENSIONS,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    vocabulary, merges = _byte_pairs()
    transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=_CONTEXT).save_pretrained(
        folder
    )
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}
    ).save_pretrained(folder)


def _transformers() -> Any:
    # transformers imports torchvision where it is installed, which may need this.
    import_open_clip()
    transformers: Any = import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """CLIP's vocabulary and merges, from the file inside open_clip."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
    # The first line names the version.
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 1 + _MERGES]
    merges = [tuple(line.split()) for line in lines]
    # GPT-2's bytes_to_unicode: printable bytes stand for themselves, the others for characters above 255.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    letters = [*map(chr, printable), *(chr(256 + number) for number in range(others))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _export(source: Path, folder: Path) -> None:
    """Both towers as ONNX graphs in float32, each in a folder beside the tokenizer and the processor."""
    import torch

    transformers = _transformers()

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.CLIPTextModelWithProjection.from_pretrained(source)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    class Pictures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.CLIPVisionModelWithProjection.from_pretrained(source)

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return self.model(pixel_values=pixel_values).image_embeds

    rows = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=_CONTEXT)}
    ids = torch.full((2, 9), 49_407)
    towers: tuple[tuple[str, torch.nn.Module, dict[str, torch.Tensor], dict[int, Any]], ...] = (
        ("text", Text(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, rows),
        ("image", Pictures(), {"pixel_values": torch.zeros(2, 3, 224, 224)}, {0: rows[0]}),
    )
    for name, tower, example, dynamic in towers:
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.onnx.export(
            tower.eval(),
            tuple(example.values()),
            folder / name / "model.onnx",
            input_names=list(example),
            output_names=["embeddings"],
            dynamic_shapes=dict.fromkeys(example, dynamic),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
