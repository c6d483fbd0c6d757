"""How the tasks of an execution agree on one plan, in a folder and in Cloud Storage."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from clip_embeddings.config import TaskSettings
from clip_embeddings.photos.plans import PATIENCE, PLAN_AGE, PREPARED_AGE, PlanStore
from clip_embeddings.photos.shares import Cells, Plan, PlanError, join, to_json
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import Bucket, TransientError
from tests.support.gcs_server import GcsServer
from tests.support.threads import run_threads

TASKS = 6
# Sets the time of an object to some seconds ago.
Age = Callable[[str, float], None]


@pytest.fixture
def age(bucket: Bucket, request: pytest.FixtureRequest) -> Age:
    def change(name: str, seconds: float) -> None:
        if isinstance(bucket, FileBucket):
            then = time.time() - seconds
            os.utime(bucket.folder / name, (then, then))
        else:
            server: GcsServer = request.getfixturevalue("server")
            server.age(f"jobs/{name}", seconds)

    return change


@pytest.fixture
def store(bucket: Bucket) -> PlanStore:
    return PlanStore(bucket, "photos", "2024/")


def plan(*names: str) -> Plan:
    cells = Cells()
    cells.add(names, 1)
    return join("photos", "2024/", [cells])


def never() -> Plan:
    pytest.fail("this task makes no plan")


def agree(store: PlanStore, make: Callable[[], Plan], index: int = 0, execution: str = "backfill-x7") -> Plan:
    return store.agree(execution, TaskSettings(index, TASKS, execution), make)


def claim(store: PlanStore) -> str:
    """The object that says who makes the plan."""
    (name,) = [name for name in store.place.names() if "/planner-" in name]
    return name


def test_one_task_makes_the_plan_and_all_take_it(store: PlanStore) -> None:
    made: list[int] = []
    agreed: dict[int, Plan] = {}

    def run(index: int) -> None:
        def make() -> Plan:
            made.append(index)
            time.sleep(0.2)
            return plan(f"2024/{index}")

        agreed[index] = agree(store, make, index)

    run_threads([partial(run, index) for index in range(TASKS)])

    assert len(made) == 1
    assert agreed == dict.fromkeys(range(TASKS), plan(f"2024/{made[0]}"))
    # A retry takes the same, and another execution makes its own.
    assert agree(store, never, 5) == agreed[0]
    assert agree(store, lambda: plan("2024/new"), 3, "backfill-y2") == plan("2024/new")


def test_after_a_failure_another_task_makes_the_plan_at_once(store: PlanStore) -> None:
    began = threading.Event()
    agreed: list[Plan] = []

    def fail() -> Plan:
        began.set()
        time.sleep(0.2)
        raise TransientError("no answer")

    def run_failing() -> None:
        with pytest.raises(TransientError, match="no answer"):
            agree(store, fail)

    def run_waiting() -> None:
        began.wait(10)
        agreed.append(agree(store, lambda: plan("2024/a"), 1))

    run_threads([run_failing, run_waiting])

    assert agreed == [plan("2024/a")]


def abandoned_claim(store: PlanStore, execution: str, content: bytes) -> str:
    """The claim that is left where a task was killed while it made the plan."""
    claims: list[str] = []

    def fail() -> Plan:
        claims.append(claim(store))
        raise TransientError

    with pytest.raises(TransientError):
        agree(store, fail, 0, execution)
    assert store.place.create(claims[0], content)
    return claims[0]


def test_a_killed_task_is_replaced_by_its_next_attempt(store: PlanStore) -> None:
    abandoned_claim(store, "backfill-x7", b"task 4")

    assert agree(store, lambda: plan("2024/a"), 4) == plan("2024/a")


def test_a_killed_task_is_replaced_by_another_after_a_time(store: PlanStore, age: Age) -> None:
    age(abandoned_claim(store, "backfill-x7", b"task 4"), PATIENCE + 60)

    assert agree(store, lambda: plan("2024/a"), 1) == plan("2024/a")


def test_a_task_waits_for_the_one_that_makes_the_plan(store: PlanStore) -> None:
    abandoned_claim(store, "backfill-x7", b"task 4")
    agreed: list[Plan] = []
    waiting = threading.Thread(target=lambda: agreed.append(agree(store, never, 1)))

    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    assert agree(store, lambda: plan("2024/a"), 4) == plan("2024/a")
    waiting.join(60)

    assert agreed == [plan("2024/a")]


def test_a_plan_is_never_replaced(store: PlanStore) -> None:
    def make_late() -> Plan:
        # Meanwhile a task that lost its patience was faster.
        assert store.place.create(claim(store).replace("planner-0", "plan.json"), to_json(plan("2024/early")))
        return plan("2024/late")

    assert agree(store, make_late) == plan("2024/early")


def test_a_prepared_plan_is_taken_unless_it_is_old_or_damaged(
    store: PlanStore, age: Age, caplog: pytest.LogCaptureFixture
) -> None:
    store.prepare(plan("2024/before"))
    store.prepare(plan("2024/prepared"))
    (prepared,) = store.place.names()

    assert agree(store, never, 2) == plan("2024/prepared")
    assert PlanStore(store.place, "photos", "").agree(
        "backfill-x7", TaskSettings(0, TASKS), lambda: Plan("photos", "", (), ())
    ) == Plan("photos", "", (), ())
    age(prepared, PREPARED_AGE + 60)
    assert agree(store, lambda: plan("2024/a"), 0, "later") == plan("2024/a")
    store.place.delete(prepared)
    store.place.create(prepared, b"{")
    assert agree(store, lambda: plan("2024/b"), 0, "last") == plan("2024/b")
    assert "The plan cannot be read" in caplog.text


def test_a_damaged_plan_ends_the_task(store: PlanStore) -> None:
    agree(store, lambda: plan("2024/a"))
    (path,) = [name for name in store.place.names() if name.endswith("plan.json")]
    store.place.delete(path)
    store.place.create(path, b"{")

    with pytest.raises(PlanError, match="start another execution"):
        agree(store, never, 1)


def test_old_plans_are_removed(store: PlanStore, age: Age) -> None:
    agree(store, lambda: plan("2024/a"), 0, "old")
    for name in list(store.place.names()):
        age(name, PLAN_AGE + 60)
    agree(store, lambda: plan("2024/a"), 0, "young")

    agree(store, lambda: plan("2024/b"), 0, "new")

    assert {name.split("/")[1] for name in store.place.names()} == {"young", "new"}
