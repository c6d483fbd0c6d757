"""The measurements as one table, and whether they keep the promises of the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.measure import Key, Samples

# The most seconds that a start may take beyond the empty function's, and how many times faster it is than
# FastAPI + open_clip.
OVER_EMPTY, START_RATIO = 0.20, 15

COLUMNS = {"empty": "empty function", "int8": "int8", "fp32": "float32", "fastapi": "FastAPI + open_clip"}


@dataclass(frozen=True)
class Memory:
    """Resident memory in MB: of the largest process, and of all processes with shared pages counted once."""

    rss: float
    pss: float


@dataclass(frozen=True)
class Results:
    """All measurements. A key names the measurement and the service, which is a column of the table."""

    starts: Mapping[Key, Samples]
    requests: Mapping[Key, Samples]
    memory: Mapping[Key, Memory]
    # Milliseconds by stage (Server-Timing) of a batch of 256 texts with int8.
    batch: Mapping[str, float]


# Label, cells by service, ratio of int8 to FastAPI.
Row = tuple[str, Mapping[str, str], str]


def table(results: Results) -> str:
    """All measurements: one row each, with one column per service."""
    rows: list[Row] = []
    for tower, label in (("text", "start to a text's vector"), ("image", "start to a photo's vector")):
        # The empty function is in both rows.
        starts = _column(results.starts, tower) | _column(results.starts, "start")
        medians = {service: f"{samples.median:.2f}" for service, samples in starts.items()}
        rows.append(_row(f"{label}, s", medians, _wall_ratio(starts)))
        spread = {
            service: f"{min(samples.wall):.2f}..{max(samples.wall):.2f}"
            for service, samples in starts.items()
        }
        rows.append(_row("  lowest..highest", spread))
        cpu = {service: f"{samples.mean_cpu:.2f}" for service, samples in starts.items()}
        rows.append(_row("  CPU seconds", cpu, _cpu_ratio(starts)))
    for name in dict.fromkeys(name for name, _ in results.requests):
        requests = _column(results.requests, name)
        wall = {service: f"{samples.median * 1000:.1f}" for service, samples in requests.items()}
        rows.append(_row(f"{name}, ms", wall, _wall_ratio(requests)))
        cpu = {service: f"{samples.mean_cpu * 1000:.1f}" for service, samples in requests.items()}
        rows.append(_row("  CPU ms", cpu, _cpu_ratio(requests)))
    for tower, label in (("text", "memory after texts"), ("image", "memory after photos")):
        memory = {key[1]: value for key, value in results.memory.items() if key[0] == tower}
        rss = {service: value.rss for service, value in memory.items()}
        pss = {service: value.pss for service, value in memory.items()}
        rows.append(_row(f"{label}, MB (worker RSS)", _whole(rss), _ratio(rss)))
        rows.append(_row("  all processes, MB (PSS)", _whole(pss), _ratio(pss)))
    return _aligned(["", *COLUMNS.values(), "int8 / FastAPI"], rows)


def verdicts(results: Results) -> list[str]:
    """One line for each promise of the project: whether it is kept, and the measured figure."""
    starts, requests, memory = results.starts, results.requests, results.memory
    lines = []
    for tower in ("text", "image"):
        start = starts[tower, "int8"].median
        delay = start - starts["start", "empty"].median
        speedup = starts[tower, "fastapi"].median / start
        lines += start_verdicts(f"embed_{tower}", delay, speedup)
    for name, limit in (("short text", 6), ("12 MP JPEG", 3)):
        ratio = requests[name, "fastapi"].cpu / requests[name, "int8"].cpu
        lines.append(_verdict(ratio >= limit, f"{name} costs 1/{ratio:.1f} of the CPU (at most 1/{limit})"))
    for tower in ("text", "image"):
        # The stricter of the two ways to count memory.
        megabytes = max(memory[tower, "int8"].rss, memory[tower, "int8"].pss)
        lines.append(_verdict(megabytes < 300, f"embed_{tower} holds {megabytes:.0f} MB (under 300)"))
    write, model = results.batch["write"], results.batch["model"]
    lines.append(_verdict(write <= model, f"256 vectors: {write:.1f} ms of JSON, {model:.1f} ms of model"))
    return lines


def start_verdicts(name: str, delay: float, speedup: float) -> list[str]:
    """Whether a function starts early enough: seconds after the empty one, times faster than FastAPI."""
    return [
        _verdict(delay <= OVER_EMPTY, f"{name} starts {delay:.2f} s after empty (at most {OVER_EMPTY:.2f})"),
        _verdict(speedup >= START_RATIO, f"{name} starts {speedup:.1f}x faster (at least {START_RATIO})"),
    ]


def _verdict(kept: bool, sentence: str) -> str:
    return f"{'OK   ' if kept else 'SHORT'} {sentence}"


def _column(samples: Mapping[Key, Samples], measurement: str) -> dict[str, Samples]:
    """The samples of one measurement, by service."""
    return {key[1]: value for key, value in samples.items() if key[0] == measurement}


def _wall_ratio(samples: Mapping[str, Samples]) -> str:
    return _ratio({service: value.median for service, value in samples.items()})


def _cpu_ratio(samples: Mapping[str, Samples]) -> str:
    return _ratio({service: value.mean_cpu for service, value in samples.items()})


def _ratio(values: Mapping[str, float]) -> str:
    return f"1/{values['fastapi'] / values['int8']:.1f}"


def _whole(values: Mapping[str, float]) -> dict[str, str]:
    return {service: f"{value:.0f}" for service, value in values.items()}


def _row(label: str, cells: Mapping[str, str], ratio: str = "") -> Row:
    return label, cells, ratio


def _aligned(header: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [list(header)]
    lines += [
        [label, *(cells.get(service, "") for service in COLUMNS), ratio] for label, cells, ratio in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = ["{:<{}}"] + ["{:>{}}"] * len(COLUMNS) + ["{:>{}}"]
    return "\n".join(
        "  ".join(template.format(*cell) for template, *cell in zip(formats, line, widths, strict=True))
        for line in lines
    )
