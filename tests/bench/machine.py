"""The machine that a measurement ran on: what belongs above every table of timings."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

# Extensions of x86-64 that decide how fast matrices are multiplied: prefixes of names in /proc/cpuinfo.
_EXTENSIONS = ("avx2", "avx512", "avx_vnni", "amx")


def describe() -> str:
    """CPU, its extensions, number of CPUs, memory, load, kernel and interpreter, in three lines."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join(
        [
            f"{_cpuinfo('model name')}, {os.cpu_count()} CPUs, {memory:.0f} GiB",
            f"CPU flags: {' '.join(extensions()) or 'none of avx2, avx512, vnni, amx'}",
            f"load {load}, Linux {platform.release()}, Python {platform.python_version()}",
        ]
    )


def warn_of_load(load: float) -> None:
    """Say that figures are disturbed if `load` is what others needed of the machine."""
    if load > 0.3:
        print(f"Other processes used the machine (load {load:.1f}): trust CPU time and ratios, not seconds.")


def extensions() -> list[str]:
    """The CPU's flags that matter here, sorted."""
    flags = _cpuinfo("flags").split()
    return sorted(flag for flag in flags if flag.startswith(_EXTENSIONS) or "vnni" in flag)


def _cpuinfo(name: str) -> str:
    """The first value of `name` in /proc/cpuinfo, or an empty text."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """`rows`, the header first, as a Markdown table whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
