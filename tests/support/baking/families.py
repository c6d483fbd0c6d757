"""Small models of other families with random weights and synthetic vocabularies, as a hub has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from model_cache.baking import parity_samples
from model_cache.baking.torch_setup import import_open_clip


def pieces(size: int) -> list[str]:
    """`size` word pieces from the sample texts, the single letters first, filled up with invented ones."""
    words = {word for text in parity_samples.captions() for word in text.split()}
    letters = sorted({letter for word in words for letter in word})
    known = [*letters, *sorted({word[:length] for word in words for length in (2, 3, 5)} - set(letters))]
    known += [f"piece{index}" for index in range(size - len(known))]
    return known[:size]


def unigram(folder: Path, size: int, kind: str = "XLMRobertaTokenizer") -> Path:
    """A sentencepiece-like tokenizer with the layout of XLM-R: <s> 0, <pad> 1, </s> 2, <unk> 3."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [(token, 0.0) for token in special] + [
        (token, -float(index % 997) / 100 - 1) for index, token in enumerate(_with_word_starts(size - 5))
    ]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, ("<mask>", 0.0)], unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    return _save(folder, tokenizer, names)


def _with_word_starts(size: int) -> Iterable[str]:
    half = pieces(size // 2)
    yield from half
    yield from (f"▁{piece}" for piece in half)
    yield from (f"extra{index}" for index in range(size - 2 * len(half)))


def siglip(folder: Path, size: int) -> Path:
    """A tokenizer with the layout of SigLIP's: </s> 1 at the end, which is the padding too."""
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0)] + [
        (token, -float(index % 997) / 100 - 1) for index, token in enumerate(_with_word_starts(size - 2))
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _save(folder, tokenizer, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"})


def word_pieces(folder: Path, size: int) -> Path:
    """A tokenizer with the layout of multilingual BERT: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102."""
    tokens = ["[PAD]", *(f"[unused{index}]" for index in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    half = pieces((size - len(tokens)) // 2)
    tokens += [*half, *(f"##{piece}" for piece in half)]
    tokens += [f"extra{index}" for index in range(size - len(tokens))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    names = {f"{kind.lower()}_token": f"[{kind}]" for kind in ("UNK", "SEP", "PAD", "CLS", "MASK")}
    return _save(folder, tokenizer, names)


def _save(folder: Path, tokenizer: Tokenizer, names: dict[str, str]) -> Path:
    """Save the tokenizer in the form that AutoTokenizer of transformers loads."""
    from transformers import PreTrainedTokenizerFast

    # `names` declares the special tokens, which the library's tokenizer does not record as such.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def xlm_roberta(folder: Path, vocabulary: int, **sizes: int) -> Path:
    """Save the configuration of an XLM-R beside its tokenizer in `folder`."""
    from transformers import XLMRobertaConfig

    XLMRobertaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **sizes,
    ).save_pretrained(folder)
    return folder


def sentence_transformer(folder: Path, vocabulary: int, dimensions: int, **sizes: int) -> Path:
    """A text tower as sentence-transformers saves it: DistilBERT, mean pooling, a dense layer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from transformers import DistilBertConfig, DistilBertModel

    bert = folder.parent / f"{folder.name}-bert"
    word_pieces(bert, vocabulary)
    config = DistilBertConfig(vocab_size=vocabulary, max_position_embeddings=512, **sizes)
    torch.manual_seed(3)
    DistilBertModel(config).save_pretrained(bert)
    transformer = parts.Transformer(str(bert), max_seq_length=128)
    width = transformer.get_embedding_dimension()
    dense = parts.Dense(width, dimensions, bias=False, activation_function=torch.nn.Identity())
    SentenceTransformer(modules=[transformer, parts.Pooling(width), dense], device="cpu").save(str(folder))
    return folder


def register_small_siglip(name: str) -> None:
    """Register a small SigLIP image tower with timm, which has only large ones."""
    from timm.models import VisionTransformer, register_model

    def build(pretrained: bool = False, **options: Any) -> Any:
        del pretrained
        sizes = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}
        accepted = {key: value for key, value in options.items() if key in ("img_size", "num_classes")}
        model = VisionTransformer(**sizes, class_token=False, global_pool="map", **accepted)
        model.default_cfg = model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        return model

    build.__name__ = name
    build.__module__ = "timm.models.vision_transformer"
    register_model(build)


def random_weights(architecture: str, path: Path, **config: Any) -> Any:
    """Save random weights of an open_clip architecture and return the model."""
    open_clip = import_open_clip()
    torch.manual_seed(5)
    model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False, **config).eval()
    torch.save(model.state_dict(), path)
    return model


def write_config(folder: Path, name: str, **fields: Any) -> Path:
    """Write the file of an architecture and register it with open_clip."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(fields))
    import_open_clip().add_model_config(path)
    return path
