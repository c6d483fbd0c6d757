"""The tables of `make bench ARGS=--peers`, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.sizing import MEMORY
from tests.bench import machine, payloads, prices, weights
from tests.bench.load import require_wrk
from tests.bench.measure import Progress
from tests.bench.peer_services import LARGE, PHOTO, TEXT
from tests.bench.side_by_side import CLIENTS, CONCURRENCY, FULL, QUICK, Measured, measure_all


def report(progress: Progress, *, quick: bool) -> str:
    """The machine, versions, and the tables of cost, throughput and prices."""
    require_wrk()
    described = machine.describe()
    results = measure_all(QUICK if quick else FULL, progress)
    versions = [f"- {result.name}: {result.versions}" for result in results if result.versions]
    return "\n\n".join(
        [
            "\n".join([described, *versions]),
            _costs(results),
            "Requests a second, and milliseconds until half and 99 of 100 are answered, on all CPUs:",
            _throughput(results),
            _price_heading(),
            _prices(results),
        ]
    )


def _costs(results: Sequence[Measured]) -> str:
    header = (
        "",
        "CPU ms: text",
        "photo",
        "12 MP",
        "start s: text",
        "photo",
        "memory MB: texts",
        "photos",
        "installed MB",
        "model MB",
    )
    rows: list[tuple[str, ...]] = [header]
    for result in results:
        if not result.cpu_ms:
            rows.append((result.name, f"not measured: {result.failure}", *[""] * (len(header) - 2)))
            continue
        rows.append(
            (
                result.name,
                *(_number(result.cpu_ms.get(kind), 1) for kind in (TEXT, PHOTO, LARGE)),
                *(_number(result.start.get(kind), 2) for kind in (TEXT, PHOTO)),
                _number(result.memory.get(TEXT), 0),
                _number(result.memory.get(LARGE, result.memory.get(PHOTO)), 0),
                _number(result.packages, 0),
                _number(result.model, 0),
            )
        )
    incomplete = [
        f"{result.name}: {result.failure}" for result in results if result.cpu_ms and result.failure
    ]
    return "\n\n".join([machine.markdown(rows), *incomplete])


def _throughput(results: Sequence[Measured]) -> str:
    rows: list[tuple[str, ...]] = [("", *(f"{clients} client{'s' * (clients > 1)}" for clients in CLIENTS))]
    for kind in (TEXT, PHOTO):
        for result in results:
            cells = []
            for clients in CLIENTS:
                load = result.loads.get((kind, clients))
                refused = f"; {load.refused}" if load and load.refused else ""
                cells.append(f"{load.rate:.0f} ({load.p50:.0f}, {load.p99:.0f}{refused})" if load else "")
            if any(cells):
                rows.append((f"{kind}, {result.name}", *cells))
    return machine.markdown(rows)


def _price_heading() -> str:
    characters = len(payloads.SHORT_TEXT)
    return (
        f"USD for a million texts of {characters} characters and a million photos of 640x480 on one CPU of "
        f"this machine, at Cloud Run's list prices (${prices.CPU_SECOND:f} a CPU-second, "
        f"${prices.GIB_SECOND:.7f} a GiB-second, ${prices.MILLION_REQUESTS:.2f} a million requests, time "
        f"rounded up to {prices.BILLED_SECONDS * 1000:.0f} ms) and at Vertex AI's "
        f"(${prices.VERTEX_1000_CHARACTERS:.4f} for 1,000 characters, ${prices.VERTEX_IMAGE:.4f} an image):"
    )


def _prices(results: Sequence[Measured]) -> str:
    least, most = CONCURRENCY
    header = ("", "memory", f"concurrency {least}, apart", f"{least}, never idle", f"{most}, never idle")
    rows: list[tuple[str, ...]] = [header]
    vertex = {TEXT: prices.vertex_text(len(payloads.SHORT_TEXT)), PHOTO: prices.vertex_image()}
    for kind, price in vertex.items():
        for result in results:
            one, many = result.one_cpu.get((kind, least)), result.one_cpu.get((kind, most))
            if not one or not many:
                continue
            setting = result.settings.get(kind) or _setting(result.memory[kind])
            gib = weights.mebibytes(setting) / 1024
            costs = prices.apart(one.p50, gib), prices.busy(one.rate, gib), prices.busy(many.rate, gib)
            rows.append((f"{kind}, {result.name}", setting, *(f"{cost:.2f}" for cost in costs)))
        rows.append((f"{kind}, Vertex AI", "", *[f"{price:.2f}"] * 3))
    return machine.markdown(rows)


def _setting(megabytes: float) -> str:
    """The smallest --memory setting of Cloud Run that holds `megabytes` with a tenth to spare."""
    return next(setting for setting, size in MEMORY.items() if megabytes * 1e6 <= 0.9 * size)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
