"""CLIP's tokenizer as it is baked, and as a file of the `tokenizers` library, each in processes of its own.

`python -m tests.bench.tokenizer FILE` is one such process; it prints its figures as JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from clip_embeddings.engine.manifest import BYTE_PAIR_TOKENIZER, LIBRARY_TOKENIZER, TextSpec
from clip_embeddings.engine.tokenizer import load_tokenizer, tokenize
from tests.bench.measure import Progress
from tests.support.serving import ROOT

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPEC = TextSpec(77, trim=True, clean="lower", pad_id=0, start_id=49406, end_id=49407)


def report(rounds: int, progress: Progress) -> str:
    """A table of CPU milliseconds, medians of `rounds` processes, and of the memory added, in MB."""
    # Imported late: the processes that are measured import this module, too.
    from model_cache.baking.tokenizer_file import clip_library_file, write_clip_tokenizer
    from model_cache.baking.torch_setup import import_open_clip

    figures: dict[str, list[Mapping[str, float]]] = {BYTE_PAIR_TOKENIZER: [], LIBRARY_TOKENIZER: []}
    with tempfile.TemporaryDirectory() as folder:
        source = import_open_clip().SimpleTokenizer()
        write_clip_tokenizer(source, Path(folder))
        (Path(folder) / LIBRARY_TOKENIZER).write_text(clip_library_file(source))
        for number in range(rounds):
            for name, samples in figures.items():
                progress(f"tokenizer {number + 1}/{rounds}: {name}")
                command = [sys.executable, "-m", "tests.bench.tokenizer", str(Path(folder) / name)]
                ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
                samples.append(json.loads(ended.stdout))
    rows = [f"{'':32}{''.join(f'{name:>16}' for name in figures)}   ratio"]
    for row in figures[BYTE_PAIR_TOKENIZER][0]:
        ours, library = (median(sample[row] for sample in samples) for samples in figures.values())
        rows.append(f"{row:32}{ours:16.1f}{library:16.1f}{ours / max(library, 0.1):8.2f}")
    return "\n".join(rows)


def _texts() -> dict[str, list[str]]:
    """256 texts of each kind."""
    rng = random.Random(5)
    emoji = json.loads((ROOT / "model_cache/demo/emoji_sheet.json").read_text())["emoji"]
    # Names that import neither ftfy nor regex, which both tokenizers would.
    names = [name.lower() for name in (one["name"] for one in emoji) if name.isascii() and "&" not in name]

    def letters(count: int) -> str:
        return "".join(rng.choices(LETTERS, k=count))

    def repeat(make: Callable[[], str]) -> list[str]:
        return [make() for _ in range(256)]

    return {
        "256 captions": repeat(lambda: "a photo of a {} and a {} on the {}".format(*rng.sample(names, 3))),
        "256 texts of 8 random words": repeat(
            lambda: " ".join(letters(rng.randint(5, 10)) for _ in range(8))
        ),
        "256 of 10,000 CJK characters": repeat(
            lambda: "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(10_000))
        ),
        "256 of 10,000 letters": repeat(lambda: letters(10_000)),
        "256 of 'ab', 5,000 times": ["ab" * 5000] * 256,
        "256 of 10,000 punctuation marks": repeat(lambda: "".join(rng.choices("!?.,-+*/()", k=10_000))),
    }


def _measure(path: Path) -> dict[str, float]:
    texts = _texts()
    before = _resident()
    started = time.process_time()
    tokenizer = load_tokenizer(path)
    figures = {"load": (time.process_time() - started) * 1000}
    for kind, batch in texts.items():
        for again in ("", ", again")[: 2 if "captions" in kind else 1]:
            started = time.process_time()
            tokenize(tokenizer, SPEC, batch)
            figures[kind + again] = (time.process_time() - started) * 1000
    return {**figures, "memory": _resident() - before}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1_000_000


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
