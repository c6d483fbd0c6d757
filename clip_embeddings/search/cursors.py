"""Cursors: where the next page of a search begins, as opaque text that a URL can hold.

A cursor holds the last result's score, a hash of its URI and its rank, so that a page goes on after that
result even if the index has changed meanwhile. It also holds the factors of a composed query, which depend on
a sample, and a digest of the query, so that it cannot be sent with another one. Nothing of it is secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
from collections.abc import Mapping

import msgspec

from clip_embeddings.errors import ApiError
from clip_embeddings.index.types import MAX_RESULTS
from clip_embeddings.search.queries import PARTS

# The form of a cursor. Another number is refused, as damage is.
VERSION = 1
# Version, rank, score, hash of the URI, factors in the order of PARTS, digest of the query.
_FORMAT = struct.Struct("<BHd12s4d16s")
# Bytes of the checksum, chosen so that base64 needs no padding.
_CHECKSUM = 7
# No factor is as large.
_MAX_FACTOR = 1e6


class Cursor(msgspec.Struct, frozen=True):
    """The last result that a client has seen."""

    # How many results it has seen.
    rank: int
    score: float
    uri_hash: bytes
    # Of a composed query, by part.
    factors: Mapping[str, float]


def hash_uri(uri: str) -> bytes:
    """12 bytes that identify an object."""
    return hashlib.blake2b(uri.encode(errors="surrogatepass"), digest_size=12).digest()


def encode(cursor: Cursor, query_digest: bytes) -> str:
    """The cursor as URL-safe text, for the query that has this digest (16 bytes)."""
    factors = (cursor.factors.get(part, 0.0) for part in PARTS)
    packed = _FORMAT.pack(VERSION, cursor.rank, cursor.score, cursor.uri_hash, *factors, query_digest)
    return base64.urlsafe_b64encode(packed + _checksum(packed)).decode()


def decode(text: str, query_digest: bytes) -> Cursor:
    """The cursor that `encode` made.

    Raises:
        ApiError: 400 `cursor_invalid` if it is damaged, `cursor_mismatch` if it is of another query.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        packed, checksum = data[: _FORMAT.size], data[_FORMAT.size :]
        version, rank, score, uri_hash, *factors, digest = _FORMAT.unpack(packed)
    except (UnicodeEncodeError, binascii.Error, struct.error):
        raise _damaged() from None
    is_valid = version == VERSION and 0 < rank < MAX_RESULTS and -1.01 < score < 1.01
    is_valid = is_valid and all(math.isfinite(factor) and abs(factor) < _MAX_FACTOR for factor in factors)
    if checksum != _checksum(packed) or not is_valid:
        raise _damaged()
    if digest != query_digest:
        message = (
            "The cursor belongs to another query: send it with the same query and filters as before, to the "
            "same model."
        )
        raise ApiError(400, "cursor_mismatch", message, where="$.cursor")
    return Cursor(rank, score, uri_hash, dict(zip(PARTS, factors, strict=True)))


def _checksum(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=_CHECKSUM).digest()


def _damaged() -> ApiError:
    message = "The cursor is damaged: send `cursor` of a reply as it is, or none for the first results."
    return ApiError(400, "cursor_invalid", message, where="$.cursor")
