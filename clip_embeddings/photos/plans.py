"""How the tasks of one execution of a backfill agree on one plan, by objects of the bucket at PLAN_URL.

    KEY/prepared-TIME.json         a plan that `--plan` made; KEY stands for a bucket and a prefix
    KEY/EXECUTION/plan.json        the plan of an execution: written once, read by all of its tasks
    KEY/EXECUTION/planner-NUMBER   the task that makes it

Two plans in one execution would leave names to nobody, so an execution's plan never changes, and every task
takes what it reads, even the one that wrote it. A task that has to wait makes the plan itself once the one
that began is gone, or takes too long; so nothing depends on any of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from clip_embeddings.config import TaskSettings
from clip_embeddings.logs import logger
from clip_embeddings.photos.shares import Plan, PlanError, parse_plan, to_json
from clip_embeddings.storage.types import JSON, Bucket, NotFoundError

# Seconds after which another task makes the plan as well, enough for some hundred million names. The next
# attempt of the task that began, which Cloud Run starts if it dies, does not wait.
PATIENCE = 1800.0
# Seconds between two looks, at first and at most.
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
# Seconds for which a prepared plan is used. An older one is right, too, but its shares are less even.
PREPARED_AGE = 7 * 24 * 3600.0
# Seconds after which plans are deleted. A task of Cloud Run may take seven days, and has four attempts.
PLAN_AGE = 31 * 24 * 3600.0


@dataclass(frozen=True)
class PlanStore:
    """The plans of one bucket and prefix of photos, in the bucket `place`."""

    place: Bucket
    # See Plan.
    bucket: str
    prefix: str

    @property
    def _folder(self) -> str:
        names = f"{self.bucket}\n{self.prefix}"
        return f"{hashlib.sha256(names.encode()).hexdigest()[:16]}/"

    def prepare(self, plan: Plan) -> None:
        """Keep a plan for the executions to come, in the place of earlier ones."""
        earlier = sorted(self.place.names(f"{self._folder}prepared-"))
        self.place.create(f"{self._folder}prepared-{time.time_ns():020}.json", to_json(plan), JSON)
        for name in earlier:
            self.place.delete(name)

    def agree(self, execution: str, task: TaskSettings, make: Callable[[], Plan]) -> Plan:
        """The plan of an execution, which `make` makes if no task has done it; waits for one that does.

        Raises:
            StorageError: the bucket of plans cannot be used, or what `make` raises.
        """
        folder = f"{self._folder}{execution}/"
        planner, waits = self._planners(folder, task), _waits()
        while (plan := self._read(f"{folder}plan.json")) is None:
            if (claim := next(planner)) is None:
                time.sleep(next(waits))
                continue
            try:
                plan = self._prepared() or make()
                self.place.create(f"{folder}plan.json", to_json(plan), JSON)
                self._remove_old()
            except BaseException:
                # The next task need not wait for PATIENCE.
                with suppress(Exception):
                    self.place.delete(claim)
                raise
        return plan

    def _planners(self, folder: str, task: TaskSettings) -> Iterator[str | None]:
        """Whether this task makes the plan, each time it is asked: the name of its claim, or None."""
        content = b"task %d" % task.index
        for number in count():
            name = f"{folder}planner-{number}"
            is_first_look = True
            while (stat := self.place.stat(name)) is None or time.time() - stat.updated <= PATIENCE:
                if stat is None:
                    if self.place.create(name, content):
                        yield name
                        break
                elif is_first_look and self._began_before(name, content):
                    break
                elif is_first_look:
                    logger.info("backfill: waiting for another task that makes the plan")
                is_first_look = False
                yield None

    def _began_before(self, name: str, content: bytes) -> bool:
        """Whether an earlier attempt of this task began to make the plan, and died."""
        with suppress(NotFoundError):
            return self.place.read(name)[0] == content
        return False

    def _read(self, name: str) -> Plan | None:
        try:
            data, _ = self.place.read(name)
        except NotFoundError:
            return None
        return parse_plan(data, self.bucket, self.prefix)

    def _prepared(self) -> Plan | None:
        """The newest prepared plan that can be used."""
        newest = max(self.place.names(f"{self._folder}prepared-"), default=None)
        stat = self.place.stat(newest) if newest else None
        if newest is None or stat is None or time.time() - stat.updated > PREPARED_AGE:
            return None
        try:
            return self._read(newest)
        except PlanError as error:
            logger.warning("backfill: %s Another one is made.", error)
            return None

    def _remove_old(self) -> None:
        with suppress(Exception):
            for name, stat in self.place.stats(self._folder):
                if time.time() - stat.updated > PLAN_AGE:
                    self.place.delete(name)


def _waits() -> Iterator[float]:
    seconds = FIRST_WAIT
    while True:
        yield seconds
        seconds = min(2 * seconds, LONGEST_WAIT)
