"""The filters of a search: what they accept, and what is wrong with some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_embeddings.errors import ApiError
from clip_embeddings.search.filters import parse_filter
from clip_embeddings.search.schema import Nearest
from tests.support.serving import Server

TIMES = [
    ("2026-05-04", datetime(2026, 5, 4, tzinfo=UTC)),
    ("2026-05-04T03:02:01Z", datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)),
    ("2026-05-04t03:02:01z", datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)),
    ("2026-05-04 03:02:01.5+02:00", datetime(2026, 5, 4, 1, 2, 1, 500_000, tzinfo=UTC)),
    ("2026-05-04T03:02:01.123456789-00:30", datetime(2026, 5, 4, 3, 32, 1, 123_456, tzinfo=UTC)),
    ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
    ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("text", "time"), TIMES)
def test_times_are_those_of_rfc_3339(text: str, time: datetime) -> None:
    assert parse_filter(Nearest(after=text), None).updated_from == time
    assert parse_filter(Nearest(before=text), None).updated_before == time


@settings(deadline=None)
@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-23 * 60, 23 * 60)
)
def test_every_time_reads_back(time: datetime, minutes: int) -> None:
    aware = time.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert parse_filter(Nearest(after=aware.isoformat()), None).updated_from == aware


WRONG = ["", "2026", "2026-5-4", "yesterday", "2026-02-30", "2026-05-04T25:00:00Z", "2026-05-04T03:02:01"]
WRONG += ["2026-05-04T03:02Z", "20260504", "1714791721", "2026-W19-1", "٢٠٢٦-٠٥-٠٤", "2026-05-04\n"]
WRONG += ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-05-04T03:02:60Z", "x" * 100_000]


@pytest.mark.parametrize("text", WRONG)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="RFC 3339") as caught:
        parse_filter(Nearest(before=text), None)
    assert (caught.value.code, caught.value.where) == ("time_invalid", "$.before")


@pytest.mark.parametrize(
    "text", ["png", "image/", "/png", "image/png; q=1", "*/*", "image/p*", "image/png\n", "a/b/c"]
)
def test_other_content_types_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_filter(Nearest(content_type=text), None)
    assert (caught.value.code, caught.value.where) == ("content_type_invalid", "$.content_type")


@pytest.mark.parametrize("text", ["image/png", "IMAGE/*", "image/svg+xml", "application/x.y-z_1"])
def test_content_types_pass_as_they_are(text: str) -> None:
    assert parse_filter(Nearest(content_type=text), None).content_type == text


BAD = [
    ({"after": "yesterday"}, "time_invalid", "`after` must be a date"),
    ({"after": "2026-05-04T00:00:00 02:00"}, "time_invalid", "%2B"),
    ({"after": "2026-05-04", "before": "2026-05-04"}, "time_invalid", "nothing is between"),
    ({"content_type": "png"}, "content_type_invalid", "image/*"),
    ({"content_type": "x" * 256}, "query_invalid", "content_type"),
    ({"label": ""}, "query_invalid", "label"),
    ({"label": "x" * 257}, "query_invalid", "label"),
]


@pytest.mark.parametrize(("params", "code", "words"), BAD)
def test_what_is_wrong_in_a_link_is_named(
    gateway: Server, params: dict[str, str], code: str, words: str
) -> None:
    for reply in (
        gateway.get("/search", params={"q": "a", **params}),
        gateway.post("/search", json={"text": "a", **params}),
    ):
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] in (code, code.replace("query", "body"))
        assert words in reply.json()["error"]["message"]
