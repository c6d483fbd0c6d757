"""The memory limit of the container, and how it is shared out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clip_embeddings.memory import MiB, make_budgets, memory_limit, work_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({"memory.max": "max\n"}, MACHINE),
        ({"memory.max": "536870912\n"}, 512 * MiB),
        ({"memory.max": "nonsense\n"}, MACHINE),
        ({"memory.max": f"{2**62}\n"}, MACHINE),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, 1024 * MiB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
    ],
)
def test_the_container_limits_the_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    assert memory_limit(tmp_path) == expected


@pytest.mark.parametrize("towers", [("text",), ("image",), ("text", "image"), ()])
def test_the_budgets_together_are_what_requests_may_use(towers: tuple[str, ...]) -> None:
    work = work_bytes(1024 * MiB, 97_000_000, cpus=2)
    budgets = make_budgets(work, towers, queue=64)

    total = sum(
        budget.width for budget in (budgets.bodies, budgets.parsing, budgets.downloads, budgets.decoding)
    )
    assert 0.99 * work < total <= work + 4


def test_a_model_that_fills_the_memory_leaves_nothing() -> None:
    assert work_bytes(512 * MiB, 400 * MiB, cpus=1) == 0
