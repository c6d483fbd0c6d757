"""Trains the demo model on two CPU cores: `python -m model_cache.demo.train`."""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from model_cache.demo.augment import PictureSampler
from model_cache.demo.emoji import DataMissingError, DrawnEmoji, load_emoji
from model_cache.demo.evaluate import embed_texts, evaluate, white_recall
from model_cache.demo.loss import Anchors
from model_cache.demo.model import CheckpointError, build_model, encode_image, encode_text, load_checkpoint
from model_cache.demo.muon import Muon
from model_cache.demo.texts import TextSampler, tokenize

_BATCHES = 12  # per epoch, of about 150 emoji each
_EPOCHS = 200
_PEAK_RATE = 2e-3
_MUON_RATE = 4e-3
_CONTINUED_PEAK = 0.4  # share of the peak rates when training continues from a checkpoint
_WARM_UP = 50  # steps
_WEIGHT_DECAY = 0.1
_AVERAGING = 0.995  # decay of the running mean of the weights; the mean is what is saved
_LARGEST_LOG_SCALE = math.log(100)
_CHECK_EVERY = 10  # epochs
_RUN_LENGTH = 8  # similar emoji that stay together in every second epoch


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    out: Path
    start: Path | None
    epochs: int
    minutes: int | None
    seed: int
    threads: int
    evaluate: Path | None


def batches(count: int, epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Divide a new random order of all `count` emoji into batches of indices.

    Every second epoch keeps runs of neighbors together: CLDR lists similar emoji side by side, so that these
    batches need finer distinctions than random ones.
    """
    length = _RUN_LENGTH if epoch % 2 else 1
    offset = int(torch.randint(length, (), generator=generator))
    runs = torch.split(torch.arange(count).roll(offset), length)
    order = torch.cat([runs[place] for place in torch.randperm(len(runs), generator=generator).tolist()])
    yield from order.tensor_split(_BATCHES)


def train(model: Any, emoji: Sequence[DrawnEmoji], options: Options) -> tuple[Any, int]:
    """Train `model`, new or loaded from `options.start`.

    Writes the averaged weights to `demo.pt` every few epochs and at the end. Returns the model with averaged
    weights, in eval mode, and the number of epochs.
    """
    order = torch.Generator().manual_seed(options.seed)
    pictures, texts = PictureSampler(emoji, options.seed), TextSampler(emoji, options.seed)
    anchors = Anchors(len(emoji), model.text_projection.shape[1])
    peak = 1.0
    if options.start is not None:
        # Checkpoints have no anchors. Those of a trained model are close to the embeddings of the names.
        anchors.vectors.data = embed_texts(model, [one.name for one in emoji])
        peak = _CONTINUED_PEAK
    averaged = copy.deepcopy(model).eval()
    optimizers = _optimizers(model, anchors)
    started, steps = time.monotonic(), options.epochs * _BATCHES
    recall, step, epoch, done = 0.0, 0, 0, 0.0
    with tqdm(total=steps, unit="step", smoothing=0.05, mininterval=1.0) as progress:
        while done < 1:
            for indices in batches(len(emoji), epoch, order):
                drawn_texts = [texts.draw(index) for index in indices.tolist()]
                image_embeddings = encode_image(model, pictures.draw(indices))
                text_embeddings = encode_text(model, tokenize([one.text for one in drawn_texts]))
                scale = model.logit_scale.exp()
                loss = anchors(image_embeddings, text_embeddings, scale, indices, drawn_texts)
                model.zero_grad()
                anchors.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    _set_rate(optimizer, peak * _rate(step, done))
                    optimizer.step()
                step += 1
                done = step / steps
                if options.minutes is not None:
                    done = max(done, (time.monotonic() - started) / 60 / options.minutes)
                with torch.no_grad():
                    model.logit_scale.clamp_(0, _LARGEST_LOG_SCALE)
                    _average(averaged, model, min(_AVERAGING, step / (step + 10)))
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.3f}", recall_1=f"{recall:.3f}", refresh=False)
            epoch += 1
            if epoch % _CHECK_EVERY == 0 or done >= 1:
                recall = white_recall(averaged, emoji)
                torch.save(averaged.state_dict(), options.out / "demo.pt")
    return averaged, epoch


def _optimizers(model: Any, anchors: Anchors) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformers, as it needs far fewer steps; AdamW for the rest."""
    named = list(model.named_parameters())
    inner = [weight for name, weight in named if "resblocks" in name and weight.ndim == 2]
    outer = [weight for name, weight in named if "resblocks" not in name and weight.ndim >= 2]
    undecayed = [weight for _, weight in named if weight.ndim < 2]  # gains, biases, temperature
    undecayed.append(anchors.vectors)
    groups = [{"params": outer, "weight_decay": _WEIGHT_DECAY}, {"params": undecayed, "weight_decay": 0.0}]
    muon = Muon(inner, lr=_MUON_RATE, weight_decay=_WEIGHT_DECAY)
    adam = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.98))
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _rate(step: int, done: float) -> float:
    """The learning rate as a share of its peak: half a cosine over the whole run, with a warm-up."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def _average(averaged: Any, model: Any, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.demo.train",
        description="Train the bundled demo model from scratch (or measure a checkpoint of it).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="folder for demo.pt and figures.json"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="CHECKPOINT",
        help="go on from this checkpoint, at a lower learning rate",
    )
    parser.add_argument("--epochs", type=_positive, default=_EPOCHS, help="passes over all emoji")
    parser.add_argument(
        "--minutes",
        type=_positive,
        help="end sooner, after this many minutes, with the same learning-rate curve",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is random")
    parser.add_argument("--threads", type=_positive, default=2, help="CPU threads to compute with")
    parser.add_argument(
        "--evaluate", type=Path, metavar="CHECKPOINT", help="only measure this checkpoint, train nothing"
    )
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 if data or checkpoint is missing or invalid)."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        emoji = load_emoji()
        if options.evaluate is not None:
            print(evaluate(load_checkpoint(options.evaluate), emoji).table())
            return 0
        torch.manual_seed(options.seed)
        model = build_model() if options.start is None else load_checkpoint(options.start).train()
        options.out.mkdir(parents=True, exist_ok=True)
    except (DataMissingError, CheckpointError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    started, started_cpu = time.monotonic(), time.process_time()
    averaged, epochs = train(model, emoji, options)
    figures = evaluate(averaged, emoji)
    minutes = {
        "wall_minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - started_cpu) / 60, 1),
    }
    report = {"epochs": epochs, "seed": options.seed, **minutes, **figures.as_dict()}
    text = json.dumps(report, ensure_ascii=False, indent=2)
    (options.out / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(figures.table())
    print(f"\n{minutes['wall_minutes']} minutes, {minutes['cpu_minutes']} CPU minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
