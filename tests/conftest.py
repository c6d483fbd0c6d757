"""Servers shared by all tests: each is a real process with the bundled model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support import firestore_emulator, postgres_server
from tests.support.browser import chromium
from tests.support.serving import Server, serving


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway, which may fetch images from this machine."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with serving("gateway", log, FETCH_PRIVATE_HOSTS="127.0.0.1") as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, for tests that are skipped where there is none."""
    with chromium() as made:
        yield made


@pytest.fixture(scope="session")
def firestore() -> Iterator[str]:
    """The address of a Firestore emulator, for FIRESTORE_EMULATOR_HOST."""
    if reason := firestore_emulator.missing():
        pytest.skip(f"no Firestore emulator: {reason}")
    with firestore_emulator.running() as address:
        yield address


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.PostgresServer]:
    """A PostgreSQL with pgvector."""
    if postgres_server.programs() is None:
        pytest.skip("no PostgreSQL: the package pgserver is not installed")
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file for a server's output."""
    return tmp_path / "log"
