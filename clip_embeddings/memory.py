"""How much memory this process may use, and how it is shared out: to models, bodies, downloads, decoding.

deploy.sh sizes functions by the same arithmetic. This module imports nothing outside the standard library,
because deploying runs without installed packages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.semaphore import FairSemaphore

MiB = 1024 * 1024
CGROUP = Path("/sys/fs/cgroup")

# Measured, anonymous memory. Interpreter, libraries, caches:
BASE = 110 * MiB
# What a model takes for each byte of its files: weights, and what ONNX Runtime packs of them.
PER_MODEL_BYTE = 1.3
# One run of a tower (see engine.model for the bound on a run), one on each CPU. A run of 224 tokens or of
# four images of an int8 ViT-B/32 takes 20 to 35 MiB.
RUN = 40 * MiB
# Vectors of prompts that zero-shot classification keeps, see prompt_vectors.py: 1,600 of 512 numbers.
PROMPT_BYTES = 4 * MiB
# Left over for what is not counted: allocators keep freed memory, threads have stacks.
FREE = 0.1

# The shares of what is left, by what they hold.
TEXT_SHARES = {"bodies": 0.35, "parsing": 0.65}
IMAGE_SHARES = {"bodies": 0.12, "parsing": 0.18, "downloads": 0.15, "decoding": 0.55}


@dataclass(frozen=True)
class MemoryBudgets:
    """Bytes that requests may hold, all together, at each stage of their work.

    A request that waits at one stage holds what it has of earlier stages only, in this order, so that no two
    requests can wait for each other.
    """

    # Request bodies while they arrive.
    bodies: FairSemaphore
    # What bodies become when they are parsed, until the reply.
    parsing: FairSemaphore
    # Pictures from URLs and buckets, until they are decoded.
    downloads: FairSemaphore
    # Pictures while they are decoded.
    decoding: FairSemaphore


def memory_limit(cgroup: Path = CGROUP) -> int:
    """The bytes that this process may use: its container's limit, or the machine's memory if that is less.

    Limit files: https://docs.kernel.org/admin-guide/cgroup-v2.html (`memory.max`) and
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(machine, int((cgroup / name).read_text()))
        except (OSError, ValueError):
            # No such version of cgroups, or "max".
            continue
    return machine


def work_bytes(limit: int, model_bytes: int, cpus: int) -> int:
    """What a process may use for requests, of `limit` bytes in all; 0 if the model alone fills it.

    Args:
        model_bytes: size of the files of the models it serves.
        cpus: how many runs of the model go on at once.
    """
    fixed = BASE + PROMPT_BYTES + PER_MODEL_BYTE * model_bytes
    return max(0, int(limit * (1 - FREE) - fixed - cpus * RUN))


def make_budgets(work: int, towers: Collection[str], queue: int) -> MemoryBudgets:
    """Share `work` bytes out. At most `queue` requests wait for bodies and parsing; pictures always may."""
    shares = IMAGE_SHARES if "image" in towers else TEXT_SHARES

    def budget(stage: str, queue: int) -> FairSemaphore:
        return FairSemaphore(max(1, int(work * shares.get(stage, 0))), queue)

    return MemoryBudgets(
        bodies=budget("bodies", queue),
        parsing=budget("parsing", queue),
        downloads=budget("downloads", sys.maxsize),
        decoding=budget("decoding", sys.maxsize),
    )
