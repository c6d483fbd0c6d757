"""The memory that the worst legal requests take, each in a fresh process: its peak, and what is kept."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

from clip_embeddings.cpus import usable_cpus
from clip_embeddings.functions import find_function
from tests.bench import machine, payloads, services, weights
from tests.bench.measure import Progress
from tests.bench.sampling import settled, watching
from tests.bench.services import Payload, Running, Service
from tests.support.hostile_pictures import PICTURES, hostile_picture

# Seconds after a request at which its memory should be free again.
KEPT_AFTER = 5.0
# How much of the rest may be kept afterwards.
MOST_KEPT = 1.3

WORDS = 80
CHINESE = 10_000
JOB_TEXTS = 1_100


@dataclass(frozen=True)
class Case:
    """A request, the function that gets it, how often at once, and on how many CPUs (0: all)."""

    label: str
    function: str
    payload: Payload
    at_once: int = 1
    cpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a case took, in MiB of anonymous memory."""

    case: Case
    rest: float
    peak: float
    kept: float
    # Status and number of failed items of each reply, or how the connection ended.
    replies: Sequence[str]
    # The --memory setting that deploy.sh chooses.
    setting: str

    @property
    def fits(self) -> bool:
        """Whether the peak stays within the deployed size, and no more is kept than may be."""
        return self.peak <= weights.mebibytes(self.setting) and self.kept <= MOST_KEPT * self.rest


def report(progress: Progress, *, quick: bool) -> str:
    """The machine, the table, and whether every row keeps to its bounds."""
    described = machine.describe()
    folder = weights.baked("int8")
    manifest = json.loads((folder / "manifest.json").read_text())
    outcomes = []
    with tempfile.TemporaryDirectory() as logs:
        for case in _cases(manifest["name"], quick):
            if case.cpus > (os.cpu_count() or 1):
                continue
            progress(case.label)
            outcomes.append(_measure(case, folder, Path(logs)))
    short = [outcome.case.label for outcome in outcomes if not outcome.fits]
    verdict = (
        f"SHORT not within their bounds: {'; '.join(short)}" if short else "OK    every row is within bounds"
    )
    bounds = f"Bounds: a peak within the deployed size, and at most {MOST_KEPT} times the rest kept."
    return "\n".join([described, "", _table(outcomes), "", bounds, verdict])


def _cases(model: str, quick: bool) -> Iterator[Case]:
    words = [" ".join(payloads.WORDS[(number + word) % 4] for word in range(WORDS)) for number in range(256)]
    yield Case(f"256 texts of {WORDS} words", "embed_text", _json("/embed/text", {"texts": words}))
    chinese = _json("/embed/text", {"texts": _chinese(256)})
    label = f"256 texts of {CHINESE:,} Chinese characters"
    yield Case(label, "embed_text", chinese)
    yield Case("four such at once", "embed_text", chinese, at_once=4)
    path = f"/api/tasks/text-embedding/batched/{model}/jobs"
    yield Case(f"a job of {JOB_TEXTS:,} such texts", "gateway", _json(path, {"text": _chinese(JOB_TEXTS)}))
    names = list(PICTURES)[:2] if quick else list(PICTURES)
    pictures = {name: hostile_picture(name) for name in names}
    for name, data in pictures.items():
        label = f"{name}, 7071 x 7071, {len(data):,} bytes"
        yield Case(label, "embed_image", Payload("/embed/image", "image/jpeg", data))
    webp = hostile_picture("WebP lossless")
    yield Case("four WebP lossless at once", "embed_image", payloads.raw(webp), at_once=4)
    twenty, two = (_json("/embed/image", {"images": [_base64(webp)] * count}) for count in (20, 2))
    yield Case("a list of 20 WebP lossless, one CPU", "embed_image", twenty, cpus=1)
    yield Case("a list of 2 WebP lossless, two CPUs", "embed_image", two, cpus=2)


def _measure(case: Case, folder: Path, logs: Path) -> Outcome:
    setting = weights.deployed_memory(case.function, folder, case.cpus or usable_cpus())
    service = services.function(case.function, case.function, MODEL=str(folder), MEMORY_LIMIT=setting)
    service = replace(service, cpus=tuple(range(case.cpus)))
    with services.running(service, logs) as server:
        _warm(server, service)
        rest = settled(server, 1)
        with watching(server) as peak, ThreadPoolExecutor(case.at_once) as pool:
            replies = list(pool.map(lambda _: _ask(server, case.payload), range(case.at_once)))
        kept = settled(server, KEPT_AFTER) if server.process.poll() is None else 0.0
    return Outcome(case, rest, peak.mebibytes, kept, replies, setting)


def _warm(server: Running, service: Service) -> None:
    """Load the towers that `service` holds, with one small request each."""
    towers = find_function(service.name).towers
    if "text" in towers:
        server.wait_for_reply(payloads.texts())
    if "image" in towers:
        server.wait_for_reply(payloads.upload(payloads.small_jpeg()))


def _ask(server: Running, payload: Payload) -> str:
    try:
        with closing(server.connect()) as connection:
            headers = {"Content-Type": payload.content_type}
            connection.request("POST", payload.path, payload.body, headers)
            response = connection.getresponse()
            body = json.loads(response.read())
            if response.status == 200 and payload.path.endswith("/jobs"):
                return _job_state(server, payload.path, body["id"])
    except (OSError, HTTPException) as error:
        return type(error).__name__
    failed = body.get("errors") or ()
    return f"{response.status}" + (f" ({len(failed)} failed)" if failed else "")


def _job_state(server: Running, path: str, job: str) -> str:
    """Wait for the end of a job; its state."""
    deadline = time.monotonic() + 600
    route = f"{path.rpartition('/batched/')[0]}/batched/jobs/{job}"
    while time.monotonic() < deadline:
        with closing(server.connect()) as connection:
            connection.request("GET", route)
            state = json.loads(connection.getresponse().read())["status"]
        if state not in ("starting", "running"):
            return str(state)
        time.sleep(0.2)
    return "unfinished"


def _chinese(count: int) -> list[str]:
    """`count` different texts of `CHINESE` characters, three bytes each."""
    # 20,000 characters from U+4E00 on are assigned.
    return [
        "".join(chr(0x4E00 + (number * 7 + at) % 20_000) for at in range(CHINESE)) for number in range(count)
    ]


def _json(path: str, body: object) -> Payload:
    return Payload(path, "application/json", json.dumps(body, ensure_ascii=False).encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _table(outcomes: Sequence[Outcome]) -> str:
    header = (
        "one request",
        "function",
        "status",
        "rest MiB",
        "peak MiB",
        "above rest",
        "kept MiB",
        "kept/rest",
    )
    rows = [(*header, "deployed size")]
    for outcome in outcomes:
        rows.append(
            (
                outcome.case.label,
                outcome.case.function,
                ", ".join(sorted(set(outcome.replies))),
                f"{outcome.rest:.0f}",
                f"{outcome.peak:.0f}",
                f"{outcome.peak - outcome.rest:+.0f}",
                f"{outcome.kept:.0f}",
                f"{outcome.kept / outcome.rest:.2f}",
                outcome.setting,
            )
        )
    return machine.markdown(rows)
