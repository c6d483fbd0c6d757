"""Parsing image references: URLs, objects, data URIs and base64."""

from __future__ import annotations

import base64

import pytest

from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import GcsObject, ImageBytes, ImageUrl, Source, parse_image, parse_url

DATA = bytes(range(200, 256))
BASE64 = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ("https://images.example/a.jpg", ImageUrl("https://images.example/a.jpg")),
        (" HTTP://images.example/a.jpg\n", ImageUrl("HTTP://images.example/a.jpg")),
        ("gs://photos/a/b.jpg", GcsObject("photos", "a/b.jpg")),
        (f"data:image/jpeg;base64,{BASE64}", ImageBytes(DATA)),
        (f"data:;base64,{BASE64}", ImageBytes(DATA)),
    ],
)
def test_urls_of_every_scheme_are_parsed(reference: str, source: Source) -> None:
    assert parse_url(reference, len(DATA)) == source
    assert parse_image(reference, len(DATA)) == source


@pytest.mark.parametrize(
    "reference",
    [
        BASE64,
        BASE64.rstrip("="),
        BASE64.replace("+", "-").replace("/", "_"),
        f"{BASE64[:30]}\r\n{BASE64[30:]}\n",
    ],
)
def test_bare_base64_is_accepted_in_every_alphabet_and_layout(reference: str) -> None:
    assert parse_image(reference, len(DATA)) == ImageBytes(DATA)

    with pytest.raises(ApiError) as caught:
        parse_url(reference, len(DATA))
    assert caught.value.code == "url_invalid"


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (None, "image_not_a_string"),
        (7, "image_not_a_string"),
        ("", "image_empty"),
        (" \n", "image_empty"),
        ("data:image/jpeg;base64,", "image_empty"),
        ("ftp://images.example/a.jpg", "url_invalid"),
        ("javascript:alert(1)", "url_invalid"),
        ("gs://photos", "url_invalid"),
        ("gs://photos/", "url_invalid"),
        ("gs:photos/a.jpg", "url_invalid"),
        (f"gs://photos/{'a' * 1025}", "url_invalid"),
        ("data:image/jpeg,AAAA", "data_uri_invalid"),
        ("data:image/jpeg;base64", "data_uri_invalid"),
        ("data:image/jpeg;base64,****", "data_uri_invalid"),
        ("not base64!", "image_reference_invalid"),
    ],
)
def test_an_invalid_reference_is_refused(reference: object, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_image(reference, 1000)

    assert (caught.value.status, caught.value.code) == (400, code)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_data_over_the_limit_is_refused(prefix: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_image(prefix + BASE64, len(DATA) - 1)

    assert (caught.value.status, caught.value.code) == (413, "image_too_large")
