from __future__ import annotations

import pytest

from functions.config import ConfigError, FetchSettings, ImageSettings, Limits, Settings, load_settings


def test_defaults() -> None:
    assert load_settings({}) == Settings()
    assert load_settings({"MODEL": "", "MAX_ITEMS": " "}) == Settings()


def test_every_variable() -> None:
    settings = load_settings(
        {
            "MODEL": "ViT-B-32/laion400m_e32",
            "LOG_LEVEL": "debug",
            "K_SERVICE": "embed-text",
            "MODEL_THREADS": "3",
            "MAX_WAITING": "0",
            "MAX_ITEMS": "10",
            "MAX_REQUEST_BYTES": "2048",
            "MAX_IMAGE_BYTES": "1024",
            "MAX_IMAGE_PIXELS": "100",
            "MAX_TEXT_CHARS": "20",
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
        log_level="DEBUG",
        in_cloud=True,
        threads=3,
        queue=0,
        limits=Limits(items=10, request_bytes=2048, image_bytes=1024, image_pixels=100, text_chars=20),
        images=ImageSettings(exif=False, exact=True),
        fetch=FetchSettings(
            timeout=2.5,
            ports=frozenset({80, 8080}),
            private_hosts=frozenset({"127.0.0.1", "images.internal", "::1"}),
            parallel=4,
        ),
    )


# What each variable refuses, and the words that say what it allows.
BAD = [
    ("LOG_LEVEL", ["LOUD", "10"], "DEBUG, INFO, WARNING or ERROR"),
    ("MODEL_THREADS", ["0", "257", "two", "-1", "1.5", "²"], "a whole number from 1 to 256"),
    ("MAX_WAITING", ["-1", "10001", "9" * 5000], "a whole number from 0 to 10000"),
    ("MAX_ITEMS", ["0", "100001", "1e3"], "a whole number from 1 to 100000"),
    ("MAX_REQUEST_BYTES", ["1023", "32MB", "4294967296"], "a whole number from 1024 to 2147483648"),
    ("MAX_IMAGE_BYTES", ["0", "20 MiB"], "a whole number from 1024 to 2147483648"),
    ("MAX_IMAGE_PIXELS", ["0", "50M"], "a whole number from 1 to 2147483648"),
    ("MAX_TEXT_CHARS", ["0", "many"], "a whole number from 1 to 10000000"),
    ("EXIF_ORIENTATION", ["maybe", "2"], "true or false"),
    ("EXACT_DECODE", ["exact", "-"], "true or false"),
    ("FETCH_TIMEOUT", ["0", "-1", "3601", "nan", "inf", "30s"], "a number of seconds above 0, at most 3600"),
    ("FETCH_PORTS", ["0", "80,", "65536", "http", "80;443"], "ports from 1 to 65535, separated by commas"),
    ("FETCH_PRIVATE_HOSTS", ["http://localhost", "localhost:80", "a/b", "a b"], "host names or addresses"),
    ("FETCH_PARALLEL", ["0", "65"], "a whole number from 1 to 64"),
]


@pytest.mark.parametrize(
    ("name", "value", "allowed"), [(n, value, ok) for n, values, ok in BAD for value in values]
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({name: value})

    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} is not valid: use ")
    assert allowed in message
    assert message.endswith(".")
    assert "\n" not in message
