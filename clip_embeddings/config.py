"""The settings, read once from the environment into a frozen dataclass.

A bad value raises `ConfigError` with a sentence that names the variable, the value and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from clip_embeddings.index.registry import find_backend
from clip_embeddings.protocols.registry import PROTOCOLS

ROOT = Path(__file__).resolve().parent.parent
MODEL_CACHE = ROOT / "model_cache"

MiB = 1024 * 1024

T = TypeVar("T")

# https://cloud.google.com/storage/docs/buckets#naming
BUCKET_NAME = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"


class ConfigError(Exception):
    """A setting is wrong. The process stops at start-up with this sentence."""


def need_package(setting: str, module: str) -> None:
    """Check that the Google package `module`, which `setting` requires, is installed. Raises ConfigError."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ConfigError(
            f"{setting} needs the package {module.replace('.', '-')}, which is not installed: "
            "pip install -r requirements/firestore.txt"
        )


@dataclass(frozen=True)
class ImageSettings:
    """How image files are decoded. Part of every image fingerprint."""

    # Apply the EXIF orientation. open_clip does not.
    exif: bool = True
    # Decode JPEGs at full size. Otherwise one far larger than the model's input is decoded at reduced size.
    exact: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits of one request. Anything above a limit is refused before any work is done."""

    items: int = 256
    # Cloud Run refuses larger HTTP/1 requests itself.
    request_bytes: int = 32 * MiB
    image_bytes: int = 20 * MiB
    image_pixels: int = 50_000_000
    text_chars: int = 10_000
    # Seconds without a byte after which the read of a request body is given up. nginx allows 60.
    body_timeout: float = 30.0


@dataclass(frozen=True)
class FetchSettings:
    """How image URLs are fetched."""

    # Seconds for name lookup, redirects and body together.
    timeout: float = 30.0
    ports: frozenset[int] = frozenset({80, 443})
    # Hosts that may have private addresses. For development and tests.
    private_hosts: frozenset[str] = frozenset()
    # Downloads in flight per request.
    parallel: int = 8
    max_redirects: int = 3


@dataclass(frozen=True)
class JobSettings:
    """Where jobs are stored, and for how long."""

    # file:///folder or gs://bucket/prefix; None means a temporary folder.
    url: str | None = None
    # Seconds until a finished job is deleted.
    ttl: float = 24 * 3600.0
    # Seconds after which an unfinished job counts as failed.
    deadline: float = 3600.0
    # Maximum number of items in one batch job.
    items: int = 2000


@dataclass(frozen=True)
class PhotoSettings:
    """The bucket whose photos are indexed."""

    # file:///folder or gs://bucket.
    url: str | None = None
    # Index only objects whose names start with this.
    prefix: str = ""
    # Age in seconds above which an event is dropped. An event that crashes its process would otherwise be
    # delivered forever.
    max_event_age: float = 2 * 24 * 3600.0


@dataclass(frozen=True)
class IndexSettings:
    """Where the vectors of photos are stored."""

    # sqlite:///folder/file or firestore://project/collection; None means a temporary file.
    url: str | None = None
    # Seconds for which the tombstone of a deleted photo is kept, so that late events do not restore it.
    tombstone_ttl: float = 7 * 24 * 3600.0


@dataclass(frozen=True)
class TaskSettings:
    """The place of this process among the tasks of a Cloud Run job."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Settings:
    """Every setting of a serving process."""

    # The model used when neither the request nor its protocol names one.
    model: str = "demo"
    # Further models to serve, by name or folder.
    models: tuple[str, ...] = ()
    # The default model of a protocol, by the protocol's name.
    protocol_models: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "INFO"
    # Whether the process runs on Cloud Run: logs are then JSON and carry the trace.
    in_cloud: bool = False
    # CPU threads of one model run; None means every CPU of the container.
    threads: int | None = None
    # Number of requests that may wait for the model; one more gets status 429.
    queue: int = 64
    # Origins whose pages may read replies (CORS), or `*`.
    origins: frozenset[str] = frozenset()
    # Required of every request except /health; None means no authentication.
    api_key: str | None = field(default=None, repr=False)
    # Buckets that gs:// references in requests may name.
    buckets: frozenset[str] = frozenset()
    limits: Limits = Limits()
    images: ImageSettings = ImageSettings()
    fetch: FetchSettings = FetchSettings()
    jobs: JobSettings = JobSettings()
    photos: PhotoSettings = PhotoSettings()
    task: TaskSettings = TaskSettings()
    index: IndexSettings = IndexSettings()


def load_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting from `env`.

    Raises:
        ConfigError: a value is not what its variable allows.
    """
    limits, fetch, jobs = Limits(), FetchSettings(), JobSettings()
    photos, index = PhotoSettings(), IndexSettings()
    models: tuple[str, ...] = _read(env, "MODELS", (), _names)
    ttl = _read(env, "JOBS_TTL", jobs.ttl, _seconds(31 * 24 * 3600))
    deadline = _read(env, "JOBS_DEADLINE", jobs.deadline, _seconds(24 * 3600))
    if deadline >= ttl:
        raise ConfigError(f"JOBS_DEADLINE is {deadline:g} seconds: it must be less than JOBS_TTL, {ttl:g}.")
    event_age = _read(env, "MAX_EVENT_AGE", photos.max_event_age, _seconds(31 * 24 * 3600))
    tombstones = _read(env, "TOMBSTONE_TTL", index.tombstone_ttl, _seconds(366 * 24 * 3600))
    if event_age >= tombstones:
        raise ConfigError(
            f"MAX_EVENT_AGE is {event_age:g} seconds: it must be less than TOMBSTONE_TTL, {tombstones:g}."
        )
    tasks = _read(env, "CLOUD_RUN_TASK_COUNT", 1, _integer(1, 10_000))
    return Settings(
        model=env.get("MODEL") or (models[0] if models else _default_model()),
        models=models,
        protocol_models=_read(env, "PROTOCOL_MODELS", {}, _pairs),
        origins=_read(env, "ALLOWED_ORIGINS", frozenset(), _origins),
        api_key=_read(env, "API_KEY", None, _secret),
        buckets=_read(env, "ALLOWED_BUCKETS", frozenset(), _buckets),
        log_level=_read(env, "LOG_LEVEL", "INFO", _log_level),
        in_cloud=bool(env.get("K_SERVICE")),
        threads=_read(env, "MODEL_THREADS", None, _integer(1, 256)),
        queue=_read(env, "MAX_WAITING", 64, _integer(0, 10_000)),
        limits=Limits(
            items=_read(env, "MAX_ITEMS", limits.items, _integer(1, 100_000)),
            request_bytes=_read(env, "MAX_REQUEST_BYTES", limits.request_bytes, _integer(1024, 2**31)),
            image_bytes=_read(env, "MAX_IMAGE_BYTES", limits.image_bytes, _integer(1024, 2**31)),
            image_pixels=_read(env, "MAX_IMAGE_PIXELS", limits.image_pixels, _integer(1, 2**31)),
            text_chars=_read(env, "MAX_TEXT_CHARS", limits.text_chars, _integer(1, 10_000_000)),
            body_timeout=_read(env, "BODY_TIMEOUT", limits.body_timeout, _seconds(3600)),
        ),
        images=ImageSettings(
            exif=_read(env, "EXIF_ORIENTATION", True, _switch),
            exact=_read(env, "EXACT_DECODE", False, _switch),
        ),
        fetch=FetchSettings(
            timeout=_read(env, "FETCH_TIMEOUT", fetch.timeout, _seconds(3600)),
            ports=_read(env, "FETCH_PORTS", fetch.ports, _ports),
            private_hosts=_read(env, "FETCH_PRIVATE_HOSTS", fetch.private_hosts, _hosts),
            parallel=_read(env, "FETCH_PARALLEL", fetch.parallel, _integer(1, 64)),
        ),
        jobs=JobSettings(
            url=_read(env, "JOBS_URL", None, _bucket_url),
            ttl=ttl,
            deadline=deadline,
            items=_read(env, "MAX_JOB_ITEMS", jobs.items, _integer(1, 100_000)),
        ),
        photos=PhotoSettings(
            url=_read(env, "BUCKET_URL", None, _whole_bucket_url),
            prefix=_read(env, "BUCKET_PREFIX", "", _object_prefix),
            max_event_age=event_age,
        ),
        index=IndexSettings(url=_read(env, "INDEX_URL", None, _index_url), tombstone_ttl=tombstones),
        task=TaskSettings(_read(env, "CLOUD_RUN_TASK_INDEX", 0, _integer(0, tasks - 1)), tasks),
    )


def _default_model() -> str:
    """The only baked model of model_cache/, which a staged folder has; `demo` where there are several."""
    folders = [path.parent.name for path in MODEL_CACHE.glob("*/manifest.json")]
    return folders[0] if len(folders) == 1 else "demo"


def _read(env: Mapping[str, str], name: str, default: T, parse: Callable[[str], T]) -> T:
    raw = env.get(name, "").strip()
    if not raw:
        return default
    try:
        return parse(raw)
    except ValueError as error:
        raise ConfigError(f"{name}={raw!r} is not valid: {error}.") from None


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or not low <= int(raw[:12]) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(raw)

    return parse


def _seconds(most: int) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise ValueError(f"use a number of seconds above 0, at most {most}")
        return value

    return parse


def _names(raw: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))


def _pairs(raw: str) -> dict[str, str]:
    split = (part.partition("=") for part in _names(raw))
    pairs = {protocol.strip(): model.strip() for protocol, _, model in split}
    if not set(pairs) <= set(PROTOCOLS) or not all(pairs.values()):
        raise ValueError(f"use PROTOCOL=MODEL, separated by commas, for {', '.join(PROTOCOLS)}")
    return pairs


def _origins(raw: str) -> frozenset[str]:
    origins = frozenset(_names(raw))
    if not all(re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) for origin in origins - {"*"}):
        raise ValueError("use *, or origins like https://photos.example, separated by commas")
    return origins


def _secret(raw: str) -> str:
    # A ConfigError, because the message for a ValueError contains the value, and a key must never be logged.
    if len(raw) < 16:
        raise ConfigError("API_KEY is shorter than 16 characters: use a long random one.")
    if not re.fullmatch("[!-~]+", raw):
        raise ConfigError("API_KEY is not fit for a header: use 16 or more ASCII characters without blanks.")
    return raw


def _buckets(raw: str) -> frozenset[str]:
    names = frozenset(_names(raw))
    if not all(re.fullmatch(BUCKET_NAME, name) for name in names):
        raise ValueError("use names of buckets, without gs:// or a path, separated by commas")
    return names


def _bucket_url(raw: str) -> str:
    if not re.fullmatch(rf"file:///[^?#]+|gs://{BUCKET_NAME}(/[^?#]*)?", raw):
        raise ValueError("use file:///folder or gs://bucket/prefix")
    return raw


def _whole_bucket_url(raw: str) -> str:
    if not re.fullmatch(rf"file:///[^?#]+|gs://{BUCKET_NAME}/?", raw):
        raise ValueError("use file:///folder or gs://bucket; BUCKET_PREFIX names a part of it")
    return raw


def _object_prefix(raw: str) -> str:
    # https://cloud.google.com/storage/docs/objects#naming
    if len(raw.encode()) > 1024 or not raw.isprintable():
        raise ValueError("use the beginning of objects' names, at most 1024 bytes")
    return raw


def _index_url(raw: str) -> str:
    find_backend(raw)
    return raw


def _switch(raw: str) -> bool:
    if raw.lower() in ("1", "true", "yes", "on"):
        return True
    if raw.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("use true or false")


def _log_level(raw: str) -> str:
    if raw.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("use DEBUG, INFO, WARNING or ERROR")
    return raw.upper()


def _ports(raw: str) -> frozenset[int]:
    try:
        return frozenset(_integer(1, 65535)(part.strip()) for part in raw.split(","))
    except ValueError:
        raise ValueError("use ports from 1 to 65535, separated by commas") from None


def _hosts(raw: str) -> frozenset[str]:
    hosts = frozenset(part.strip().lower() for part in raw.split(",") if part.strip())
    if not all(
        re.fullmatch(r"[a-z0-9._-]+|\[?[0-9a-f.:]*:[0-9a-f.:]*:[0-9a-f.:]*\]?", host) for host in hosts
    ):
        raise ValueError("use host names or addresses, without scheme, port or path, separated by commas")
    return hosts
