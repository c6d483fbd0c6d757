"""The settings, read once from the environment into a frozen dataclass.

A bad value raises `ConfigError` with a sentence that names the variable, the value and what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeVar

from clip_embeddings import setting_values as parse
from clip_embeddings.errors import ConfigError
from clip_embeddings.index.registry import Package
from clip_embeddings.paths import default_model
from clip_embeddings.postgres_url import mask_password

MiB = 1024 * 1024

T = TypeVar("T")


# What gs:// URLs need.
CLOUD_STORAGE = Package("google.cloud.storage", "requirements/cloud-storage.txt")
# What DOCS_PAGE=swagger needs.
SWAGGER_UI = Package("flask_swagger_ui", "requirements/docs.txt")


def missing_package(subject: str, package: Package) -> str:
    """The sentence, without its full stop, that `subject` needs a package which is not installed."""
    name = package.module.replace(".", "-")
    return (
        f"{subject} needs the package {name}, which is not installed: pip install -r {package.requirements}"
    )


def need_package(setting: str, package: Package) -> None:
    """Check that the package that a setting requires is installed. Raises ConfigError."""
    try:
        spec = find_spec(package.module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ConfigError(missing_package(setting, package))


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
    # Of all images of a request together; docs/performance.md has the CPU time of a pixel.
    request_pixels: int = 1_000_000_000
    # Seconds that decoding one image may take. The slowest legal ones take a few, on one CPU.
    decode_timeout: float = 30.0
    text_chars: int = 10_000
    # Seconds that a request body may take beyond its size at 16 KiB a second. nginx allows 60 between reads.
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
    # Where the tasks of a backfill agree on their shares, file:///folder or gs://bucket/prefix; None means
    # that each task lists the whole bucket.
    plan_url: str | None = None
    # Age in seconds above which an event is dropped. An event that crashes its process would otherwise be
    # delivered forever.
    max_event_age: float = 2 * 24 * 3600.0
    # Whether /original sends the photos themselves, in full size and with their metadata.
    originals: bool = False


@dataclass(frozen=True)
class IndexSettings:
    """Where the vectors of photos are stored."""

    # sqlite:///folder/file, firestore://project/collection or postgresql://...; None means a temporary file.
    # The last may hold a password.
    url: str | None = field(default=None, repr=False)
    # Seconds for which the tombstone of a deleted photo is kept, so that late events do not restore it.
    tombstone_ttl: float = 7 * 24 * 3600.0


@dataclass(frozen=True)
class TaskSettings:
    """The place of this process among the tasks of a Cloud Run job."""

    index: int = 0
    count: int = 1
    # A name that all tasks of one run share, and no other run has.
    execution: str | None = None


@dataclass(frozen=True)
class Settings:
    """Every setting of a serving process."""

    # The model used when neither the request nor its protocol names one.
    model: str = "demo"
    # Further models to serve, by name or folder.
    models: tuple[str, ...] = ()
    # The default model of a protocol, by the protocol's name.
    protocol_models: Mapping[str, str] = field(default_factory=dict)
    # Other names by which requests may ask for a served model, for clients that cannot choose theirs.
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    # Protocols whose requests are answered whatever model they name.
    any_model_protocols: frozenset[str] = frozenset()
    # Protocols whose vectors are not normalized unless a request asks for it.
    raw_protocols: frozenset[str] = frozenset()
    # Paths that Vertex AI gives a custom container, for predictions and for health checks.
    aip_predict_route: str | None = None
    aip_health_route: str | None = None
    # The page at /docs for browsers: `light`, or `swagger`, from which requests can be sent.
    docs_page: str = "light"
    log_level: str = "INFO"
    # Whether the process runs on Cloud Run: logs are then JSON and carry the trace.
    in_cloud: bool = False
    # CPU threads of all model runs together; None means every CPU of the container.
    threads: int | None = None
    # Bytes of memory that the process may use; None means the limit of the container.
    memory: int | None = None
    # Whether the SHA-256 of a model's files is checked before its first vector, not after the first reply.
    verify_before_serving: bool = False
    # Number of requests that may wait for the model; one more gets status 429.
    queue: int = 64
    # Origins whose pages may read replies (CORS), or `*`.
    origins: frozenset[str] = frozenset()
    # Hosts that requests may name in `Host`; empty for every host. The local server sets it.
    hosts: frozenset[str] = frozenset()
    # Required of every request but those of public routes, see docs/http-api.md; None means no
    # authentication.
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
    models: tuple[str, ...] = _read(env, "MODELS", (), parse.names)
    ttl = _read(env, "JOBS_TTL", jobs.ttl, parse.seconds(31 * 24 * 3600))
    deadline = _read(env, "JOBS_DEADLINE", jobs.deadline, parse.seconds(24 * 3600))
    if deadline >= ttl:
        raise ConfigError(f"JOBS_DEADLINE is {deadline:g} seconds: it must be less than JOBS_TTL, {ttl:g}.")
    event_age = _read(env, "MAX_EVENT_AGE", photos.max_event_age, parse.seconds(31 * 24 * 3600))
    tombstones = _read(env, "TOMBSTONE_TTL", index.tombstone_ttl, parse.seconds(366 * 24 * 3600))
    if event_age >= tombstones:
        raise ConfigError(
            f"MAX_EVENT_AGE is {event_age:g} seconds: it must be less than TOMBSTONE_TTL, {tombstones:g}."
        )
    tasks = _read(env, "CLOUD_RUN_TASK_COUNT", 1, parse.integer(1, 10_000))
    return Settings(
        model=default_model(env),
        models=models,
        protocol_models=_read(env, "PROTOCOL_MODELS", {}, parse.protocol_models),
        model_aliases=_read(env, "MODEL_ALIASES", {}, parse.aliases),
        any_model_protocols=_read(env, "ANY_MODEL_PROTOCOLS", frozenset(), parse.protocols),
        raw_protocols=_read(env, "RAW_PROTOCOLS", frozenset(), parse.protocols),
        aip_predict_route=_read(env, "AIP_PREDICT_ROUTE", None, parse.path),
        aip_health_route=_read(env, "AIP_HEALTH_ROUTE", None, parse.path),
        origins=_read(env, "ALLOWED_ORIGINS", frozenset(), parse.origins),
        hosts=_read(env, "ALLOWED_HOSTS", frozenset(), parse.hosts),
        api_key=_read(env, "API_KEY", None, parse.secret),
        buckets=_read(env, "ALLOWED_BUCKETS", frozenset(), parse.bucket_names),
        docs_page=_read(env, "DOCS_PAGE", "light", parse.docs_page),
        log_level=_read(env, "LOG_LEVEL", "INFO", parse.log_level),
        in_cloud=bool(env.get("K_SERVICE")),
        threads=_read(env, "MODEL_THREADS", None, parse.integer(1, 256)),
        memory=_read(env, "MEMORY_LIMIT", None, parse.memory_size),
        verify_before_serving=_read(env, "VERIFY_BEFORE_SERVING", False, parse.switch),
        queue=_read(env, "MAX_WAITING", 64, parse.integer(0, 10_000)),
        limits=Limits(
            items=_read(env, "MAX_ITEMS", limits.items, parse.integer(1, 100_000)),
            request_bytes=_read(env, "MAX_REQUEST_BYTES", limits.request_bytes, parse.integer(1024, 2**31)),
            image_bytes=_read(env, "MAX_IMAGE_BYTES", limits.image_bytes, parse.integer(1024, 2**31)),
            image_pixels=_read(env, "MAX_IMAGE_PIXELS", limits.image_pixels, parse.integer(1, 2**31)),
            request_pixels=_read(env, "MAX_REQUEST_PIXELS", limits.request_pixels, parse.integer(1, 10**11)),
            decode_timeout=_read(env, "DECODE_TIMEOUT", limits.decode_timeout, parse.seconds(3600)),
            text_chars=_read(env, "MAX_TEXT_CHARS", limits.text_chars, parse.integer(1, 10_000_000)),
            body_timeout=_read(env, "BODY_TIMEOUT", limits.body_timeout, parse.seconds(3600)),
        ),
        images=ImageSettings(
            exif=_read(env, "EXIF_ORIENTATION", True, parse.switch),
            exact=_read(env, "EXACT_DECODE", False, parse.switch),
        ),
        fetch=FetchSettings(
            timeout=_read(env, "FETCH_TIMEOUT", fetch.timeout, parse.seconds(3600)),
            ports=_read(env, "FETCH_PORTS", fetch.ports, parse.ports),
            private_hosts=_read(env, "FETCH_PRIVATE_HOSTS", fetch.private_hosts, parse.hosts),
            parallel=_read(env, "FETCH_PARALLEL", fetch.parallel, parse.integer(1, 64)),
        ),
        jobs=JobSettings(
            url=_read(env, "JOBS_URL", None, parse.bucket_url),
            ttl=ttl,
            deadline=deadline,
            items=_read(env, "MAX_JOB_ITEMS", jobs.items, parse.integer(1, 100_000)),
        ),
        photos=PhotoSettings(
            url=_read(env, "BUCKET_URL", None, parse.whole_bucket_url),
            prefix=_read(env, "BUCKET_PREFIX", "", parse.object_prefix),
            plan_url=_read(env, "PLAN_URL", None, parse.bucket_url),
            max_event_age=event_age,
            originals=_read(env, "SERVE_ORIGINALS", False, parse.switch),
        ),
        index=IndexSettings(url=_read(env, "INDEX_URL", None, parse.index_url), tombstone_ttl=tombstones),
        task=TaskSettings(
            index=_read(env, "CLOUD_RUN_TASK_INDEX", 0, parse.integer(0, tasks - 1)),
            count=tasks,
            execution=_read(env, "CLOUD_RUN_EXECUTION", None, parse.execution),
        ),
    )


def _read(env: Mapping[str, str], name: str, default: T, parser: Callable[[str], T]) -> T:
    raw = env.get(name, "").strip()
    if not raw:
        return default
    try:
        return parser(raw)
    except ValueError as error:
        # The URL of a database may hold a password.
        raise ConfigError(f"{name}={mask_password(raw)!r} is not valid: {error}.") from None
