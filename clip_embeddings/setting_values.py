"""Parsers of the values of settings. Each raises ValueError, whose message says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from clip_embeddings import postgres_url
from clip_embeddings.errors import ConfigError
from clip_embeddings.index.registry import find_backend
from clip_embeddings.protocols.registry import PROTOCOLS

# https://cloud.google.com/storage/docs/buckets#naming
BUCKET_NAME = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
# https://cloud.google.com/storage/docs/objects#naming
MAX_OBJECT_NAME_BYTES = 1024

# https://cloud.google.com/run/docs/configuring/services/memory-limits
MEMORY_UNITS = {None: 1, "M": 10**6, "G": 10**9, "Mi": 2**20, "Gi": 2**30}
MIN_MEMORY, MAX_MEMORY = 2**27, 2**50

# The URLs of buckets, for error messages.
BUCKET_URL_FORMS = "file:///folder or gs://bucket/prefix"


def integer(low: int, high: int) -> Callable[[str], int]:
    """Parses a whole number from `low` to `high`."""

    def parse(raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or not low <= int(raw[:12]) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(raw)

    return parse


def seconds(most: int) -> Callable[[str], float]:
    """Parses a number of seconds above 0, at most `most`."""

    def parse(raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise ValueError(f"use a number of seconds above 0, at most {most}")
        return value

    return parse


def memory_size(raw: str) -> int:
    """Bytes, as Cloud Run writes them: 536870912, 512Mi or 1Gi."""
    match = re.fullmatch(r"([0-9]{1,15})(Mi|Gi|M|G)?", raw, re.ASCII)
    size = int(match[1]) * MEMORY_UNITS[match[2]] if match else 0
    if not MIN_MEMORY <= size <= MAX_MEMORY:
        raise ValueError("use a number of bytes, or one like 512Mi or 2Gi; at least 128Mi")
    return size


def names(raw: str) -> tuple[str, ...]:
    """Names separated by commas, without duplicates."""
    return tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))


def protocol_models(raw: str) -> dict[str, str]:
    """`PROTOCOL=MODEL`, separated by commas."""
    pairs = _pairs(raw)
    if not set(pairs) <= set(PROTOCOLS) or not all(pairs.values()):
        raise ValueError(f"use PROTOCOL=MODEL, separated by commas, for {', '.join(PROTOCOLS)}")
    return pairs


def aliases(raw: str) -> dict[str, str]:
    """`ALIAS=MODEL`, separated by commas."""
    pairs = _pairs(raw)
    if not all(alias and model for alias, model in pairs.items()):
        raise ValueError("use ALIAS=MODEL, separated by commas")
    return pairs


def protocols(raw: str) -> frozenset[str]:
    """Names of protocols, separated by commas."""
    values = frozenset(names(raw))
    if not values <= set(PROTOCOLS):
        raise ValueError(f"use names of protocols, separated by commas: {', '.join(PROTOCOLS)}")
    return values


def _pairs(raw: str) -> dict[str, str]:
    split = (part.partition("=") for part in names(raw))
    return {name.strip(): value.strip() for name, _, value in split}


def origins(raw: str) -> frozenset[str]:
    """Origins of web pages, or `*`."""
    values = frozenset(names(raw))
    if not all(re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) for origin in values - {"*"}):
        raise ValueError("use *, or origins like https://photos.example, separated by commas")
    return values


def secret(raw: str) -> str:
    """An API key that fits into a header."""
    # A ConfigError, because the message for a ValueError contains the value, and a key must never be logged.
    if len(raw) < 16:
        raise ConfigError("API_KEY is shorter than 16 characters: use a long random one.")
    if not re.fullmatch("[!-~]+", raw):
        raise ConfigError("API_KEY is not fit for a header: use 16 or more ASCII characters without blanks.")
    return raw


def bucket_names(raw: str) -> frozenset[str]:
    """Names of buckets, separated by commas."""
    buckets = frozenset(names(raw))
    if not all(re.fullmatch(BUCKET_NAME, name) for name in buckets):
        raise ValueError("use names of buckets, without gs:// or a path, separated by commas")
    return buckets


def bucket_url(raw: str) -> str:
    """The URL of a folder, or of a part of a bucket."""
    if not re.fullmatch(rf"file:///[^?#]+|gs://{BUCKET_NAME}(/[^?#]*)?", raw):
        raise ValueError(f"use {BUCKET_URL_FORMS}")
    return raw


def whole_bucket_url(raw: str) -> str:
    """The URL of a folder or of a bucket."""
    if not re.fullmatch(rf"file:///[^?#]+|gs://{BUCKET_NAME}/?", raw):
        raise ValueError("use file:///folder or gs://bucket; BUCKET_PREFIX names a part of it")
    return raw


def execution(raw: str) -> str:
    """The name of an execution of a Cloud Run job, or of another run of several tasks."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", raw, re.ASCII):
        raise ValueError("use at most 100 letters, digits, dots, - and _, a letter or digit first")
    return raw


def object_prefix(raw: str) -> str:
    """The beginning of object names."""
    if len(raw.encode()) > MAX_OBJECT_NAME_BYTES or not raw.isprintable():
        raise ValueError(f"use the beginning of objects' names, at most {MAX_OBJECT_NAME_BYTES} bytes")
    return raw


def index_url(raw: str) -> str:
    """The URL of an index, of any backend."""
    if find_backend(raw).scheme == postgres_url.SCHEME:
        postgres_url.parse_postgres_url(raw)
    return raw


def switch(raw: str) -> bool:
    """true or false."""
    if raw.lower() in ("1", "true", "yes", "on"):
        return True
    if raw.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("use true or false")


def docs_page(raw: str) -> str:
    """The page at /docs: `light` or `swagger`."""
    if raw not in ("light", "swagger"):
        raise ValueError("use light or swagger")
    return raw


def log_level(raw: str) -> str:
    """The name of a log level."""
    if raw.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("use DEBUG, INFO, WARNING or ERROR")
    return raw.upper()


def ports(raw: str) -> frozenset[int]:
    """Port numbers, separated by commas."""
    try:
        return frozenset(integer(1, 65535)(part.strip()) for part in raw.split(","))
    except ValueError:
        raise ValueError("use ports from 1 to 65535, separated by commas") from None


def hosts(raw: str) -> frozenset[str]:
    """Host names or addresses, separated by commas."""
    values = frozenset(part.strip().lower() for part in raw.split(",") if part.strip())
    if not all(
        re.fullmatch(r"[a-z0-9._-]+|\[?[0-9a-f.:]*:[0-9a-f.:]*:[0-9a-f.:]*\]?", host) for host in values
    ):
        raise ValueError("use host names or addresses, without scheme, port or path, separated by commas")
    return values


def path(raw: str) -> str:
    """The path of a URL, without a slash at its end."""
    if not re.fullmatch(r"/[A-Za-z0-9._~:@+/-]*", raw):
        raise ValueError("use a path that starts with / and has letters, digits and ._~:@+/- only")
    return raw.rstrip("/") or "/"
