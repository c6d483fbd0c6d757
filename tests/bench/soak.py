"""Minutes of 64 clients that want different things: what they get, and whether memory stays flat."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from clip_embeddings.cpus import usable_cpus
from tests.bench import machine, payloads, services, weights
from tests.bench.measure import Progress
from tests.bench.services import Running
from tests.bench.soak_clients import KINDS, Outcome, Target, act
from tests.support.photographs import crops

CLIENTS = 64
# Photos in the bucket that searches find.
PHOTOS = 40
# Seconds between two looks at the memory.
LOOK = 2.0
# How much more than in the first minute the last one may take.
MOST_GROWTH = 1.15


@dataclass
class Tally:
    """What the clients got. Each has its own, so that none waits for another."""

    outcomes: dict[str, Counter[Outcome]] = field(default_factory=lambda: defaultdict(Counter))
    # Seconds of every short text that was answered with 200.
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Memory:
    """Memory of all processes after so many seconds, in MiB: resident (PSS), and anonymous."""

    second: float
    resident: float
    anonymous: float


def report(minutes: float, progress: Progress) -> str:
    """The machine, a table of outcomes by kind of client, memory by minute, and verdicts."""
    described = machine.describe()
    folder = weights.baked("int8")
    manifest = json.loads((folder / "manifest.json").read_text())
    setting = weights.deployed_memory("gateway", folder, usable_cpus())
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, data in crops(PHOTOS).items():
            path = root / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        service = services.function(
            "gateway",
            "gateway",
            MODEL=str(folder),
            MEMORY_LIMIT=setting,
            BUCKET_URL=(root / "photos").as_uri(),
            INDEX_URL=f"sqlite://{root}/index.sqlite",
            JOBS_URL=(root / "jobs").as_uri(),
        )
        with services.running(service, root) as server:
            server.wait_for_reply(payloads.texts())
            server.wait_for_reply(payloads.upload(payloads.small_jpeg()))
            target = Target(server.port, manifest["name"])
            tallies, memory = _soak(server, target, minutes * 60, progress)
            ended = server.process.poll()
        log = (root / "gateway.log").read_text(errors="replace")
    together = _together(tallies)
    seconds = sorted(second for tally in tallies for second in tally.seconds)
    lines = [
        described,
        "",
        f"{CLIENTS} clients for {minutes:g} minutes, gateway with int8 ViT-B/32, MEMORY_LIMIT {setting}:",
        "",
        _outcomes(together),
        "",
        f"short texts: {len(seconds) / minutes / 60:.1f} a second, half within {_quantile(seconds, 0.5)}, "
        f"99 of 100 within {_quantile(seconds, 0.99)}",
        "",
        _memory(memory),
        "",
        *_verdicts(together, memory, log, ended),
    ]
    return "\n".join(lines)


def _soak(
    server: Running, target: Target, seconds: float, progress: Progress
) -> tuple[list[Tally], list[Memory]]:
    """Let the clients loose for `seconds`. Memory is that before, during, and ten seconds after them."""
    time.sleep(2)
    memory = [_look(server, 0)]
    started = time.monotonic()
    end = started + seconds
    tallies = [Tally() for _ in range(CLIENTS)]
    threads = [
        threading.Thread(target=_client, args=(target, Random(number), end, tally))
        for number, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(min(LOOK, max(0.0, end - time.monotonic())))
        if server.process.poll() is None:
            memory.append(_look(server, time.monotonic() - started))
            progress(f"{memory[-1].second:.0f} of {seconds:.0f} s, {memory[-1].resident:.0f} MiB")
    for thread in threads:
        thread.join()
    if server.process.poll() is None:
        time.sleep(10)
        memory.append(_look(server, time.monotonic() - started))
    return tallies, memory


def _client(target: Target, random: Random, end: float, tally: Tally) -> None:
    names = list(KINDS)
    kind_weights = [kind.weight for kind in KINDS.values()]
    while time.monotonic() < end:
        (name,) = random.choices(names, kind_weights)
        started = time.monotonic()
        outcome = act(KINDS[name], target, random)
        tally.outcomes[name][outcome] += 1
        if (name, outcome) == ("short text", "200"):
            tally.seconds.append(time.monotonic() - started)


def _look(server: Running, second: float) -> Memory:
    return Memory(second, server.tree_pss() / 1.048576, server.tree_anonymous())


def _together(tallies: Sequence[Tally]) -> dict[str, Counter[Outcome]]:
    """Outcomes of all clients by kind, in the order of KINDS."""
    counts = {name: Counter[Outcome]() for name in KINDS}
    for tally in tallies:
        for name, outcomes in tally.outcomes.items():
            counts[name] += outcomes
    return counts


def _outcomes(counts: Mapping[str, Counter[Outcome]]) -> str:
    columns = sorted({outcome for outcomes in counts.values() for outcome in outcomes})
    rows = [("", *columns)]
    for name, outcomes in counts.items():
        rows.append((name, *(f"{outcomes[column]:,}" if outcomes[column] else "" for column in columns)))
    return machine.markdown(rows)


def _memory(memory: Sequence[Memory]) -> str:
    """The start, the median of each minute, and the end."""
    rows = [("minute", "resident MiB", "anonymous MiB", "most anonymous MiB")]
    for label, looks in _by_minute(memory).items():
        resident, anonymous = ([getattr(look, name) for look in looks] for name in ("resident", "anonymous"))
        rows.append((label, f"{median(resident):.0f}", f"{median(anonymous):.0f}", f"{max(anonymous):.0f}"))
    return machine.markdown(rows)


def _by_minute(memory: Sequence[Memory]) -> dict[str, list[Memory]]:
    looks: dict[str, list[Memory]] = {"start": [memory[0]]}
    for look in memory[1:-1]:
        looks.setdefault(str(int(look.second // 60) + 1), []).append(look)
    looks["10 s after"] = [memory[-1]]
    return looks


def _verdicts(
    counts: Mapping[str, Counter[Outcome]], memory: Sequence[Memory], log: str, ended: int | None
) -> list[str]:
    unexpected = [
        f"{name}: {outcome} {count:,} times"
        for name, outcomes in counts.items()
        for outcome, count in sorted(outcomes.items())
        if outcome not in KINDS[name].expected
    ]
    total = sum(outcomes.total() for outcomes in counts.values())
    refused = sum(outcomes["429"] for outcomes in counts.values())
    tracebacks = log.count("Traceback (most recent call last)")
    minutes = list(_by_minute(memory).values())[1:-1]
    first, last = (median(look.anonymous for look in looks) for looks in (minutes[0], minutes[-1]))
    verdict = {True: "OK   ", False: "SHORT"}
    return [
        f"{verdict[ended is None]} the process lives" + (f", exit status {ended}" if ended else ""),
        f"{verdict[not unexpected]} {total:,} requests, {refused:,} of them 429, unexpected: "
        + ("; ".join(unexpected) or "none"),
        f"{verdict[not tracebacks]} {tracebacks} tracebacks in the log",
        f"{verdict[last <= MOST_GROWTH * first]} anonymous memory of the last minute is {last / first:.2f} "
        f"times that of the first (at most {MOST_GROWTH})",
    ]


def _quantile(values: Sequence[float], part: float) -> str:
    return f"{values[min(len(values) - 1, int(len(values) * part))]:.2f} s" if values else "-"
