"""The packages that people already call embedding services with get the engine's vectors from the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tests.support.clients import CLIENTS, FILES, TEXTS, Client, Table
from tests.support.documents import Block, blocks
from tests.support.serving import Server
from tests.support.vectors import assert_images, assert_texts, raw_images

PAGE = "docs/clients.md"
# What the message of an error holds, by the case of `scripts/report.py`.
SENTENCES = {
    "wrong_key": "Send the API key as",
    "wrong_model": "no-such-model",
    "too_many": "2,500",
}


def _nearest(vectors: ArrayLike, candidates: ArrayLike) -> list[int]:
    """The index of the nearest candidate of each vector."""
    return [int(index) for index in np.argmax(np.array(vectors) @ np.array(candidates).T, axis=1)]


every_client = pytest.mark.parametrize(
    "client",
    [
        pytest.param(client, marks=() if client.environment == "test" else pytest.mark.clients)
        for client in CLIENTS
    ],
    ids=[client.name for client in CLIENTS],
)


Printed = Callable[[Client], Mapping[str, Any]]


@pytest.fixture(scope="module")
def printed(locked_gateway: Server, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    """What a client's script prints. A script runs once, and again only if it failed."""

    @cache
    def run(client: Client) -> Mapping[str, Any]:
        return client.run(locked_gateway.url, tmp_path_factory.mktemp("client"))

    return run


@pytest.fixture
def row(client: Client, table: Table) -> dict[str, str]:
    """The client's row of the table. Skips the test if the client is not installed."""
    if not client.installed:
        command = "make test" if client.environment == "test" else "make test-clients"
        pytest.skip(f"{client.name} is not installed: {command} does it")
    return table.setdefault(client.name, {})


@every_client
def test_texts_have_the_engines_vectors(client: Client, printed: Printed, row: dict[str, str]) -> None:
    result = printed(client)
    row["version"] = result["version"]

    assert_texts(result["texts"], *TEXTS)
    # Each text is closest to its own picture: the cake before the fire engine, and the other way round.
    assert _nearest(result["texts"], raw_images(*[path.read_bytes() for path in FILES])) == [0, 1]
    row["text"] = "yes"


@every_client
def test_pictures_have_the_engines_vectors(client: Client, printed: Printed, row: dict[str, str]) -> None:
    result = printed(client)

    assert (result["pictures"] is not None) == client.pictures
    if client.pictures:
        assert_images(result["pictures"], *[path.read_bytes() for path in FILES])
        assert _nearest(result["texts"], result["pictures"]) == [0, 1]
    row["picture"] = "yes" if client.pictures else "no"


@every_client
def test_an_error_is_the_clients_own_exception_with_our_sentence(
    client: Client, printed: Printed, row: dict[str, str]
) -> None:
    errors = printed(client)["errors"]

    assert {case: raised for case, (raised, _) in errors.items()} == client.errors
    for case, (_, message) in errors.items():
        assert SENTENCES[case] in message
    row["errors"] = ", ".join(case.replace("_", " ") for case in client.errors) or "none"


def snippets() -> list[Block]:
    """The blocks of the page that stand for a client."""
    return [block for block in blocks(PAGE) if block.client]


@every_client
def test_the_lines_of_the_page_run(
    client: Client, locked_gateway: Server, tmp_path: Path, row: dict[str, str]
) -> None:
    (block,) = (block for block in snippets() if block.client == client.name)

    vector = client.paste(block.text, locked_gateway.url, tmp_path)

    assert_texts([vector], TEXTS[0])
    row["snippet"] = "yes"


def test_every_block_of_the_page_names_a_client() -> None:
    assert {block.client for block in snippets()} == {client.name for client in CLIENTS}
