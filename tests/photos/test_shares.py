"""How the names of a bucket are counted and shared among tasks."""

from __future__ import annotations

import resource
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_embeddings.config import TaskSettings
from clip_embeddings.photos import counting
from clip_embeddings.photos.counting import count_names
from clip_embeddings.photos.shares import MAX_CELLS, Cells, Plan, PlanError, join, parse_plan, to_json
from clip_embeddings.storage.types import NameRange
from tests.support.gcs_server import BUCKET, connected, running
from tests.support.many_names import ManyNames, ManyNamesServer


def shares(plan: Plan, count: int) -> list[NameRange]:
    return [plan.share(TaskSettings(index, count)) for index in range(count)]


def names_of(plan: Plan, count: int, names: list[str]) -> list[list[str]]:
    return [[name for name in names if name in within] for within in shares(plan, count)]


def plan_of(names: list[str], size: int = 1) -> Plan:
    cells = Cells()
    cells.add(sorted(names), size)
    return join(BUCKET, "", [cells])


@given(
    st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    st.integers(1, 9),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_every_name_belongs_to_one_share_also_a_new_one(
    planned: set[str], new: set[str], count: int, size: int
) -> None:
    plan = plan_of(list(planned), size)

    present = sorted(planned | new)
    parts = names_of(plan, count, present)

    assert list(chain(*parts)) == present
    sizes = [len(part) for part in names_of(plan, count, sorted(planned))]
    assert sizes == [plan.size(TaskSettings(index, count)) for index in range(count)]
    assert max(sizes) <= -(-len(planned) // count) + size - 1
    assert parse_plan(to_json(plan), BUCKET, "") == plan


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":1,"bucket":"bucket","prefix":"","starts":["b","a"],"counts":[1,1]}',
        b'{"format":1,"bucket":"bucket","prefix":"","starts":["a"],"counts":[0]}',
        b'{"format":1,"bucket":"bucket","prefix":"","starts":["a"],"counts":[]}',
        b'{"format":1,"bucket":"another","prefix":"","starts":[],"counts":[]}',
        b'{"format":1,"bucket":"bucket","prefix":"p","starts":[],"counts":[]}',
        b'{"format":2,"bucket":"bucket","prefix":"","starts":[],"counts":[]}',
    ],
)
def test_what_is_no_plan_of_this_bucket_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError, match="plan"):
        parse_plan(data, BUCKET, "")


def simulate(server: ManyNamesServer, tasks: int) -> tuple[Plan, int, int]:
    """Counts all names, lists all shares, and checks them; returns the plan and the listings of both."""
    with running(server), connected(server.url, "") as bucket:
        plan = count_names(bucket, BUCKET)
        planning = server.listings()
        expected = iter(server.names)
        for within in shares(plan, tasks):
            for page in bucket.name_pages("", within):
                # Each name in one share, and in order.
                assert page == [next(expected) for _ in page]
        assert next(expected, None) is None
        return plan, planning, server.listings() - planning


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4),
    st.text("ab\U0010ffff", min_size=1, max_size=8),
    st.integers(0, 10**6).map("photos/{:07}.jpg".format),
)


@given(st.sets(NAMES, min_size=50, max_size=400), st.integers(2, 16))
@settings(deadline=None, max_examples=15)
def test_requests_at_once_count_each_name_once(names: set[str], parallel: int) -> None:
    server = ManyNamesServer(sorted(names))
    server.page_size = 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "PAGES_PER_SPLIT", 1)
        with running(server), connected(server.url, "") as bucket:
            plan = count_names(bucket, BUCKET, parallel=parallel)
            photos = count_names(bucket, BUCKET, "photos/", parallel=parallel)

    assert plan == plan_of(list(names))
    assert photos.starts == tuple(sorted(name for name in names if name.startswith("photos/")))


def test_tasks_list_a_bucket_once_in_all() -> None:
    names, tasks = ManyNames(50_000), 50

    plan, planning, listing = simulate(ManyNamesServer(names), tasks)

    assert plan.names == len(names)
    # Every 16 pages, up to 20 look-ups tell where the next request goes on.
    assert planning <= 50 + 3 * 20
    assert listing <= 50 + tasks
    sizes = [plan.size(TaskSettings(index, tasks)) for index in range(tasks)]
    assert max(sizes) - min(sizes) <= 8


@pytest.mark.full
def test_ten_million_names_and_a_thousand_tasks() -> None:
    names, tasks = ManyNames(10_000_000), 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    plan, planning, listing = simulate(ManyNamesServer(names), tasks)

    # In KiB, of the server and the 20,000 requests that it remembers as well.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

    assert plan.names == len(names)
    assert len(plan.starts) <= MAX_CELLS
    assert planning <= 1.1 * 10_000
    assert listing <= 10_000 + tasks
    sizes = [plan.size(TaskSettings(index, tasks)) for index in range(tasks)]
    assert 0.9 * 10_000 <= min(sizes) <= max(sizes) <= 1.1 * 10_000
    assert len(to_json(plan)) < 2**21
