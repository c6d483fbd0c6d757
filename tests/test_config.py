"""Settings: defaults, every variable, and the sentences about invalid values."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from clip_embeddings.config import (
    FetchSettings,
    ImageSettings,
    IndexSettings,
    JobSettings,
    Limits,
    PhotoSettings,
    Settings,
    TaskSettings,
    load_settings,
)
from clip_embeddings.errors import ConfigError
from clip_embeddings.http.swagger import swagger_routes
from clip_embeddings.index.factory import open_configured_index
from clip_embeddings.paths import ROOT
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from tests.support.settings import INVALID_VALUES

KEY = "a-long-random-key-0123456789"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()
    assert load_settings({"MODEL": "", "MAX_ITEMS": " "}) == Settings()


def test_every_variable_is_read() -> None:
    settings = load_settings(
        {
            "MODEL": "ViT-B-32/laion400m_e32",
            "MODELS": "demo, ViT-L-14/openai,demo,",
            "PROTOCOL_MODELS": "encoder=demo, photo-app = ViT-L-14/openai",
            "ALLOWED_ORIGINS": "https://photos.example, http://localhost:3000",
            "API_KEY": KEY,
            "ALLOWED_BUCKETS": "photos, more-photos",
            "JOBS_URL": "gs://bucket/jobs",
            "JOBS_TTL": "7200",
            "JOBS_DEADLINE": "600.5",
            "MAX_JOB_ITEMS": "50",
            "INDEX_URL": "firestore://my-project/photos",
            "TOMBSTONE_TTL": "864000",
            "BUCKET_URL": "gs://photos",
            "BUCKET_PREFIX": "holidays/",
            "MAX_EVENT_AGE": "3600",
            "CLOUD_RUN_TASK_INDEX": "2",
            "CLOUD_RUN_TASK_COUNT": "3",
            "CLOUD_RUN_EXECUTION": "backfill-x7k2p",
            "PLAN_URL": "gs://jobs/plans",
            "LOG_LEVEL": "debug",
            "K_SERVICE": "embed-text",
            "MODEL_THREADS": "3",
            "MEMORY_LIMIT": "512Mi",
            "MAX_WAITING": "0",
            "MAX_ITEMS": "10",
            "MAX_REQUEST_BYTES": "2048",
            "MAX_IMAGE_BYTES": "1024",
            "MAX_IMAGE_PIXELS": "100",
            "MAX_TEXT_CHARS": "20",
            "BODY_TIMEOUT": "1.5",
            "EXIF_ORIENTATION": "no",
            "EXACT_DECODE": "On",
            "FETCH_TIMEOUT": "2.5",
            "FETCH_PORTS": "80, 8080",
            "FETCH_PRIVATE_HOSTS": "127.0.0.1, Images.Internal, ::1",
            "FETCH_PARALLEL": "4",
        }
    )

    assert settings == Settings(
        model="ViT-B-32/laion400m_e32",
        models=("demo", "ViT-L-14/openai"),
        protocol_models={"encoder": "demo", "photo-app": "ViT-L-14/openai"},
        origins=frozenset({"https://photos.example", "http://localhost:3000"}),
        api_key=KEY,
        buckets=frozenset({"photos", "more-photos"}),
        jobs=JobSettings(url="gs://bucket/jobs", ttl=7200, deadline=600.5, items=50),
        photos=PhotoSettings(
            url="gs://photos", prefix="holidays/", plan_url="gs://jobs/plans", max_event_age=3600
        ),
        task=TaskSettings(index=2, count=3, execution="backfill-x7k2p"),
        index=IndexSettings(url="firestore://my-project/photos", tombstone_ttl=864000),
        log_level="DEBUG",
        in_cloud=True,
        threads=3,
        memory=512 * 2**20,
        queue=0,
        limits=Limits(
            items=10, request_bytes=2048, image_bytes=1024, image_pixels=100, text_chars=20, body_timeout=1.5
        ),
        images=ImageSettings(exif=False, exact=True),
        fetch=FetchSettings(
            timeout=2.5,
            ports=frozenset({80, 8080}),
            private_hosts=frozenset({"127.0.0.1", "images.internal", "::1"}),
            parallel=4,
        ),
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [(name, value, allowed) for name, values, allowed in INVALID_VALUES for value in values],
)
def test_an_invalid_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({name: value})

    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} is not valid: use ")
    assert allowed in message
    assert message.endswith(".")
    assert "\n" not in message


def test_without_model_the_first_of_models_is_the_default() -> None:
    assert load_settings({"MODELS": "a, b"}).model == "a"
    assert load_settings({"MODELS": "a, b", "MODEL": "b"}).model == "b"


@pytest.mark.parametrize("key", ["hunter2", "x" * 15, "long enough, but with blanks", "schlüsselschlüssel"])
def test_an_invalid_key_is_reported_but_never_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^API_KEY is ") as caught:
        load_settings({"API_KEY": key})

    assert key not in str(caught.value)
    assert "16" in str(caught.value)


def test_the_repr_of_settings_does_not_contain_the_key() -> None:
    assert KEY not in repr(load_settings({"API_KEY": KEY}))


def test_the_repr_of_settings_does_not_contain_a_database_s_password() -> None:
    url = f"postgresql://user:{KEY}@host/database?table=photos"
    assert KEY not in repr(load_settings({"INDEX_URL": url}))


def test_a_star_allows_every_origin() -> None:
    assert load_settings({"ALLOWED_ORIGINS": "*"}).origins == {"*"}


@pytest.mark.parametrize("url", ["file:///tmp/jobs", "gs://bucket", "gs://bucket/a/b"])
def test_urls_for_jobs(url: str) -> None:
    assert load_settings({"JOBS_URL": url}).jobs.url == url


def test_jobs_must_expire_before_they_are_deleted() -> None:
    with pytest.raises(ConfigError, match="JOBS_DEADLINE is 3600 seconds: it must be less than JOBS_TTL"):
        load_settings({"JOBS_TTL": "60"})


def test_tombstones_must_outlast_the_oldest_event() -> None:
    with pytest.raises(
        ConfigError, match="MAX_EVENT_AGE is 172800 seconds: it must be less than TOMBSTONE_TTL"
    ):
        load_settings({"TOMBSTONE_TTL": "172800"})


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x",
        "sqlite:///a%20b/photos.sqlite",
        "firestore://my-project/photos",
        "postgresql://user:word@host/database?table=photos",
    ],
)
def test_urls_for_the_index(url: str) -> None:
    assert load_settings({"INDEX_URL": url}).index.url == url


@pytest.mark.parametrize(
    ("module", "requirements", "settings", "use"),
    [
        (
            "google.cloud.firestore",
            "requirements/firestore.txt",
            {"INDEX_URL": "firestore://project/photos"},
            open_configured_index,
        ),
        (
            "psycopg_pool",
            "requirements/postgres.txt",
            {"INDEX_URL": "postgresql://user@host/database?table=photos"},
            open_configured_index,
        ),
        (
            "google.cloud.storage",
            "requirements/cloud-storage.txt",
            {"BUCKET_URL": "gs://photos"},
            open_indexed_bucket,
        ),
        (
            "flask_swagger_ui",
            "requirements/docs.txt",
            {"DOCS_PAGE": "swagger"},
            lambda settings: swagger_routes(),
        ),
    ],
)
def test_a_missing_package_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    requirements: str,
    settings: dict[str, str],
    use: Callable[[Settings], object],
) -> None:
    use(load_settings(settings))
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigError) as caught:
        use(load_settings(settings))

    (name,) = settings
    assert (ROOT / requirements).is_file()
    assert str(caught.value) == (
        f"{name} needs the package {module.replace('.', '-')}, which is not installed: "
        f"pip install -r {requirements}"
    )
