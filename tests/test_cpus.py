"""The number of usable CPUs: affinity, bounded by the quota of the container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clip_embeddings.cpus import usable_cpus

AVAILABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, AVAILABLE),
        ({"cpu.max": "max 100000\n"}, AVAILABLE),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(2, AVAILABLE)),
        ({"cpu.max": "6400000 100000\n"}, AVAILABLE),
        ({"cpu.max": "nonsense\n"}, AVAILABLE),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AVAILABLE),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, AVAILABLE),
    ],
)
def test_the_quota_limits_the_cpus(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    assert usable_cpus(tmp_path) == expected
