"""What a start reads from the disk when nothing is in memory: seconds, megabytes, and which files."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench import container_image, machine, page_cache, payloads, slow_disk
from tests.bench.container_image import ContainerImage
from tests.bench.measure import Progress
from tests.bench.page_cache import Pages
from tests.bench.services import Payload, Service, running

# Megabytes that a function may read until its first vector.
GOALS = {"embed_text": 150, "embed_image": 195}
# What its start may take beyond the empty function's, in times what `cat` takes for the rest.
CAT = 1.3
# Threads that read beside each other, to see what that brings.
THREADS = 16


@dataclass
class ColdStarts:
    """The cold starts of one function."""

    seconds: list[float] = field(default_factory=list)
    # Seconds in which the pages that the empty function does not read are read one after the other.
    cat: list[float] = field(default_factory=list)
    # The same by several threads.
    parallel: list[float] = field(default_factory=list)
    # Seconds of a start that finds everything in memory.
    warm: list[float] = field(default_factory=list)
    # MB read until the first reply.
    megabytes: list[float] = field(default_factory=list)
    # The pages read by one start, by file; the last one's.
    taken: Pages = field(default_factory=dict)
    # Libraries of the system that it uses. Those that others use as well are in memory already.
    system: set[Path] = field(default_factory=set)


# Makes all files cold and gives the image from which a function is then started.
Cold = Callable[[], AbstractContextManager[ContainerImage]]


def report(model: Path, progress: Progress, *, quick: bool, milliseconds: float | None = None) -> str:
    """The machine, tables of seconds and of megabytes by library, what is never read, and the goals.

    `milliseconds`: how long each read takes, on storage that is simulated; None measures the disk.
    """
    if not page_cache.can_drop():
        return f"Skipped: dropping the page cache takes root ({page_cache.DROP} cannot be written)."
    if milliseconds and (reason := slow_disk.why_not()):
        return f"Skipped: {reason}."
    described = machine.describe()
    image = container_image.make(model, progress)
    if milliseconds:
        starts = measure(lambda: _slow(image, milliseconds), 1 if quick else 5, progress, again=False)
        how = f"Each read took {milliseconds:g} ms, of at most {slow_disk.MAX_READ // 1024} KiB."
        return "\n\n".join([f"{described}\n{how} MB are 10^6 bytes.", _seconds_table(starts)])
    starts = measure(lambda: _dropped(image), 2 if quick else 7, progress, again=True)
    how = (
        f"The page cache of the whole machine was dropped before each start ({page_cache.DROP}).\n"
        f"The disk is read in up to {page_cache.read_ahead(image.root)} KiB at once, needed or not."
    )
    return "\n\n".join(
        [
            f"{described}\n{how} MB are 10^6 bytes.",
            _seconds_table(starts),
            "\n".join(verdicts(starts)),
            _libraries_table(image, starts),
            _untouched_table(image, [found.taken for found in starts.values()]),
        ]
    )


@contextmanager
def _dropped(image: ContainerImage) -> Iterator[ContainerImage]:
    page_cache.drop()
    yield image


@contextmanager
def _slow(image: ContainerImage, milliseconds: float) -> Iterator[ContainerImage]:
    mountpoint = image.root.with_name("slow")
    with slow_disk.mounted(image.root, mountpoint, milliseconds):
        yield image.at(mountpoint)


def requests() -> dict[str, Payload]:
    """The first request of each function."""
    text, photo = payloads.texts(), payloads.raw(payloads.small_jpeg())
    return {"empty": text, "embed_text": text, "embed_image": photo}


def measure(cold: Cold, rounds: int, progress: Progress, *, again: bool) -> dict[str, ColdStarts]:
    """Cold starts of each function, in turn; with `again` each is followed by one from memory."""
    starts = {name: ColdStarts() for name in container_image.FUNCTIONS}
    with tempfile.TemporaryDirectory() as logs:
        for number in range(rounds):
            for name, payload in requests().items():
                progress(f"cold start {number + 1}/{rounds}: {name}")
                found = starts[name]
                with cold() as image:
                    _start(image, image.services[name], payload, Path(logs), found)
                if again:
                    with running(image.services[name], Path(logs)) as server:
                        found.warm.append(server.wait_for_reply(payload))
                if name == "empty":
                    continue
                rest = page_cache.without(found.taken, starts["empty"].taken)
                found.cat.append(_timed(cold, partial(page_cache.read, rest)))
                found.parallel.append(_timed(cold, partial(page_cache.read_by_threads, rest, THREADS)))
    return starts


def _timed(cold: Cold, read: Callable[[], None]) -> float:
    """The seconds that `read` takes on cold files."""
    with cold():
        started = time.perf_counter()
        read()
        return time.perf_counter() - started


def _start(image: ContainerImage, service: Service, payload: Payload, logs: Path, found: ColdStarts) -> None:
    """Start `service` from cold files, and add what that took to `found`."""
    files = [*image.files(), *found.system]
    before = page_cache.pages(files)
    with running(service, logs) as server:
        found.seconds.append(server.wait_for_reply(payload))
        # What is read after the first reply does not count.
        with server.stopped():
            found.taken = page_cache.without(page_cache.pages(files), before)
            # The system counts folders and inodes as well, but not what comes from simulated storage.
            found.megabytes.append(max(page_cache.size(found.taken), server.read_megabytes()))
            found.system = {file for file in server.mapped_files() if not file.is_relative_to(image.root)}


def verdicts(starts: Mapping[str, ColdStarts]) -> list[str]:
    """One line for each goal: whether it is reached, and the measured figure."""
    empty = median(starts["empty"].seconds)
    lines = []
    for name, most in GOALS.items():
        found = starts[name]
        megabytes = median(found.megabytes)
        lines.append(_verdict(megabytes <= most, f"{name} reads {megabytes:.0f} MB (at most {most})"))
        seconds, limit = median(found.seconds), empty + CAT * median(found.cat)
        lines.append(
            _verdict(
                seconds <= limit,
                f"{name} starts in {seconds:.2f} s (at most {limit:.2f}: the empty function's {empty:.2f}, "
                f"and {CAT} times the {median(found.cat):.2f} of `cat` for the rest)",
            )
        )
    return lines


def _verdict(kept: bool, sentence: str) -> str:
    return f"{'OK   ' if kept else 'SHORT'} {sentence}"


def _seconds_table(starts: Mapping[str, ColdStarts]) -> str:
    header = (
        *("cold disk", "start s", "lowest..highest", "MB read"),
        *("from memory s", "`cat` of the rest s", f"by {THREADS} threads s"),
    )
    rows = [
        (
            name,
            f"{median(found.seconds):.2f}",
            f"{min(found.seconds):.2f}..{max(found.seconds):.2f}",
            f"{median(found.megabytes):.0f}",
            *(
                f"{median(seconds):.2f}" if seconds else ""
                for seconds in (found.warm, found.cat, found.parallel)
            ),
        )
        for name, found in starts.items()
    ]
    return machine.markdown([header, *rows])


def _libraries_table(image: ContainerImage, starts: Mapping[str, ColdStarts]) -> str:
    """MB read by each library and large file, the largest first."""
    megabytes: dict[str, dict[str, float]] = defaultdict(dict)
    for name, found in starts.items():
        for file, numbers in found.taken.items():
            part = library(image, file)
            megabytes[part][name] = megabytes[part].get(name, 0.0) + page_cache.size({file: numbers})
    rows = [
        (part, *(f"{by_function.get(name, 0.0):.1f}" for name in starts))
        for part, by_function in sorted(megabytes.items(), key=lambda item: -max(item[1].values()))
        if max(by_function.values()) >= 0.05
    ]
    return machine.markdown([("MB read", *starts), *rows])


def library(image: ContainerImage, file: Path) -> str:
    """What a file belongs to: a package, a part of the interpreter, a model's file, the project."""
    if file.is_relative_to(image.packages):
        parts = file.relative_to(image.packages).parts
        # A package of one file is compiled into a folder beside it.
        top = parts[1] if parts[0] == "__pycache__" else parts[0]
        name = top.partition("-")[0].partition(".")[0]
        return {"_pillow_heif": "pillow_heif", "pillow": "PIL", "_yaml": "yaml"}.get(name, name)
    if not file.is_relative_to(image.root):
        return "libraries of the system"
    if file.is_relative_to(image.root / "python"):
        return file.name if file.name.startswith(("libpython", "python")) else "standard library"
    return file.name if "model_cache" in file.parts else "functions and clip_embeddings"


def _untouched_table(image: ContainerImage, starts: Iterable[Pages]) -> str:
    """What no start reads of the installed packages: by package, and the largest files."""
    touched: dict[Path, frozenset[int]] = {}
    for taken in starts:
        for file, numbers in taken.items():
            touched[file] = touched.get(file, frozenset()) | numbers
    installed: dict[str, float] = defaultdict(float)
    reads: dict[str, float] = defaultdict(float)
    idle: dict[str, float] = defaultdict(float)
    largest: list[tuple[float, str]] = []
    for file in image.packages.rglob("*"):
        if not file.is_file():
            continue
        name, megabytes = library(image, file), file.stat().st_size / 1e6
        installed[name] += megabytes
        if file in touched:
            reads[name] += min(megabytes, page_cache.size({file: touched[file]}))
        else:
            idle[name] += megabytes
            largest.append((megabytes, file.relative_to(image.packages).as_posix()))
    rows: list[tuple[str, ...]] = [
        (name, f"{total:.1f}", f"{reads[name]:.1f}", f"{idle[name]:.1f}")
        for name, total in sorted(installed.items(), key=lambda item: -item[1])
        if total >= 0.5
    ]
    rows.append(("all packages", *(f"{sum(part.values()):.1f}" for part in (installed, reads, idle))))
    table = machine.markdown([("package", "MB installed", "MB read", "MB in files never opened"), *rows])
    names = "\n".join(f"{size:6.1f}  {name}" for size, name in sorted(largest, reverse=True)[:25])
    return f"{table}\n\nThe largest files of packages that no start opens, in MB:\n{names}"
