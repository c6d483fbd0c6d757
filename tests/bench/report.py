"""What was measured, as one table, and whether it keeps what the project promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.measure import Key, Samples

COLUMNS = {"empty": "empty function", "int8": "int8", "fp32": "float32", "fastapi": "FastAPI + open_clip"}


@dataclass(frozen=True)
class Memory:
    """MB resident: of the largest process, and of all processes with shared pages counted once."""

    rss: float
    pss: float


@dataclass(frozen=True)
class Results:
    """Everything measured. The keys say what was measured and of which column."""

    starts: Mapping[Key, Samples]
    requests: Mapping[Key, Samples]
    memory: Mapping[Key, Memory]
    # Server-Timing of a batch of 256 texts, int8: milliseconds by stage.
    batch: Mapping[str, float]


Row = tuple[str, Mapping[str, str], str]


def table(results: Results) -> str:
    """The measurements, a row each, a column for each service."""
    rows: list[Row] = []
    for what, label in (("text", "start to a text's vector"), ("image", "start to a photo's vector")):
        # The empty function stands in both rows.
        found = _column(results.starts, what) | _column(results.starts, "start")
        rows.append(_row(f"{label}, s", {who: f"{s.median:.2f}" for who, s in found.items()}, _wall(found)))
        spread = {who: f"{min(s.wall):.2f}..{max(s.wall):.2f}" for who, s in found.items()}
        rows.append(_row("  lowest..highest", spread))
        cpu = {who: f"{s.mean_cpu:.2f}" for who, s in found.items()}
        rows.append(_row("  CPU seconds", cpu, _cpu(found)))
    for what in dict.fromkeys(what for what, _ in results.requests):
        found = _column(results.requests, what)
        wall = {who: f"{s.median * 1000:.1f}" for who, s in found.items()}
        rows.append(_row(f"{what}, ms", wall, _wall(found)))
        cpu = {who: f"{s.mean_cpu * 1000:.1f}" for who, s in found.items()}
        rows.append(_row("  CPU ms", cpu, _cpu(found)))
    for what, label in (("text", "memory after texts"), ("image", "memory after photos")):
        memory = {who: m for (kind, who), m in results.memory.items() if kind == what}
        rss = {who: m.rss for who, m in memory.items()}
        pss = {who: m.pss for who, m in memory.items()}
        rows.append(_row(f"{label}, MB (worker RSS)", _whole(rss), _ratio(rss)))
        rows.append(_row("  all processes, MB (PSS)", _whole(pss), _ratio(pss)))
    return _aligned(["", *COLUMNS.values(), "int8 / FastAPI"], rows)


def verdicts(results: Results) -> list[str]:
    """A line for each promise: kept or not, and by which figure."""
    starts, requests, memory = results.starts, results.requests, results.memory
    lines = []
    for what in ("text", "image"):
        ours = starts[what, "int8"].median
        later = ours - starts["start", "empty"].median
        faster = starts[what, "fastapi"].median / ours
        lines.append(_verdict(later <= 0.5, f"embed_{what} starts {later:.2f} s after empty (at most 0.5)"))
        lines.append(_verdict(faster >= 10, f"embed_{what} starts {faster:.1f}x faster (at least 10)"))
    for what, limit in (("short text", 6), ("12 MP JPEG", 3)):
        share = requests[what, "fastapi"].cpu / requests[what, "int8"].cpu
        lines.append(_verdict(share >= limit, f"{what} costs 1/{share:.1f} of the CPU (at most 1/{limit})"))
    for what in ("text", "image"):
        # The stricter of the two ways to count.
        most = max(memory[what, "int8"].rss, memory[what, "int8"].pss)
        lines.append(_verdict(most < 300, f"embed_{what} holds {most:.0f} MB (under 300)"))
    write, model = results.batch["write"], results.batch["model"]
    lines.append(_verdict(write <= model, f"256 vectors: {write:.1f} ms of JSON, {model:.1f} ms of model"))
    return lines


def _verdict(kept: bool, sentence: str) -> str:
    return f"{'OK   ' if kept else 'SHORT'} {sentence}"


def _column(samples: Mapping[Key, Samples], what: str) -> dict[str, Samples]:
    return {who: found for (kind, who), found in samples.items() if kind == what}


def _wall(found: Mapping[str, Samples]) -> str:
    return _ratio({who: samples.median for who, samples in found.items()})


def _cpu(found: Mapping[str, Samples]) -> str:
    return _ratio({who: samples.mean_cpu for who, samples in found.items()})


def _ratio(values: Mapping[str, float]) -> str:
    return f"1/{values['fastapi'] / values['int8']:.1f}"


def _whole(values: Mapping[str, float]) -> dict[str, str]:
    return {who: f"{value:.0f}" for who, value in values.items()}


def _row(label: str, cells: Mapping[str, str], ratio: str = "") -> Row:
    return label, cells, ratio


def _aligned(header: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [list(header)]
    lines += [[label, *(cells.get(who, "") for who in COLUMNS), ratio] for label, cells, ratio in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = ["{:<{}}"] + ["{:>{}}"] * len(COLUMNS) + ["{:>{}}"]
    return "\n".join(
        "  ".join(form.format(*cell) for form, *cell in zip(formats, line, widths, strict=True))
        for line in lines
    )
