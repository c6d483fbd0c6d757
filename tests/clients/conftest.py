"""The gateway that the clients call, and the table of what they can do, printed after the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import CLIENTS, Table
from tests.support.serving import KEY, Server, serving

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def locked_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway with a key, and with aliases for clients that cannot choose a model's name."""
    log = tmp_path_factory.mktemp("locked") / "log"
    aliases = "text-embedding-3-small=demo,multimodalembedding@001=demo"
    with serving("gateway", log, API_KEY=KEY, MODEL_ALIASES=aliases) as server:
        yield server


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """The table that is printed after the tests."""
    return request.config.stash.setdefault(TABLE, Table())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, in the order of CLIENTS."""
    table = config.stash.get(TABLE, None)
    if table is None:
        return
    terminalreporter.section("clients")
    for line in table.lines([client.name for client in CLIENTS]):
        terminalreporter.write_line(line)
