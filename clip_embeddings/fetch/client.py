"""Fetch images by URL without giving callers access to the network this process runs in.

`policy` decides which addresses may be contacted, `transport` connects to them. Every redirect passes the
same checks as the first URL.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from clip_embeddings.config import FetchSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.fetch.policy import resolve_target
from clip_embeddings.fetch.types import Deadline, fetch_failed, invalid_url

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

CHUNK = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Chains of codings are excluded: a decoder can work on one forever without needing another byte.
COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
ENCODINGS = COMPRESSED | {"", "identity"}


def fetch(
    url: str, settings: FetchSettings, max_bytes: int, reserve: Callable[[int | None], int] | None = None
) -> bytes:
    """The body behind `url`, at most `max_bytes` of it after decoding, within `settings.timeout` seconds.

    Args:
        reserve: called before the body is read, with the size that the server declares, if it does; returns
            how many bytes to read at most.

    Raises:
        ApiError: 400 `url_invalid`, 400 `url_forbidden` (address or port), 413 `image_too_large`,
            422 `fetch_failed` or 422 `fetch_timeout`. The sentence holds no part of the URL and no address.
    """
    # Imported late: requests takes 0.2 s to import, and a process can start without it.
    from clip_embeddings.fetch import transport

    deadline = Deadline(time.monotonic() + settings.timeout)
    try:
        for _ in range(settings.max_redirects + 1):
            with transport.get(resolve_target(url, settings, deadline), deadline, max_bytes) as response:
                location = response.headers.get("Location") if response.status in REDIRECTS else None
                if location is None:
                    return _read_body(response, max_bytes, reserve)
            url = _join(url, location)
    except TimeoutError:
        raise ApiError(422, "fetch_timeout", "The image did not arrive in time.") from None
    raise fetch_failed(f"more than {settings.max_redirects} redirects")


def _join(url: str, location: str) -> str:
    try:
        # http.client reads headers as Latin-1; servers that send more than ASCII send UTF-8.
        return urljoin(url, location.encode("latin-1").decode(errors="replace"))
    except ValueError:
        raise invalid_url("it redirects to one that cannot be read") from None


def _read_body(
    response: BaseHTTPResponse, max_bytes: int, reserve: Callable[[int | None], int] | None
) -> bytes:
    if response.status != 200:
        raise fetch_failed(f"the server answered with status {response.status}")
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise fetch_failed("the server used a content encoding other than gzip or deflate")
    if (response.length_remaining or 0) > max_bytes:
        raise _too_large(max_bytes)
    if reserve is not None:
        # Of a compressed body the declared size says little.
        max_bytes = reserve(None if encoding in COMPRESSED else response.length_remaining)
    # Hands its bytes over without a copy.
    body = io.BytesIO()
    while chunk := response.read(CHUNK, decode_content=True):
        if body.tell() + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        body.write(chunk)
    if not body.tell():
        raise fetch_failed("the server sent nothing")
    return body.getvalue()


def _too_large(max_bytes: int) -> ApiError:
    message = f"The image is too large: it has more than {max_bytes:,} bytes."
    return ApiError(413, "image_too_large", message)
