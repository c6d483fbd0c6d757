"""One line of the log tells where a start-up went."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.serving import ROOT, environment, serving

MARKS = """
import time
from clip_embeddings import marks
assert marks.mark("first")
time.sleep(0.05)
assert marks.mark("second")
assert not marks.mark("first")
stages = marks.milliseconds()
assert list(stages) == ["first_ms", "second_ms"], stages
assert 50 <= stages["second_ms"] - stages["first_ms"] < 10_000, stages
assert 0 < stages["first_ms"] < 10_000, stages
"""


def test_stages_are_counted_from_the_start_of_the_process_and_the_first_time_counts() -> None:
    subprocess.run([sys.executable, "-c", MARKS], cwd=ROOT, env=environment({}), check=True)


def test_the_first_reply_logs_the_stages_of_the_start_in_their_order(log: Path) -> None:
    with serving("embed_text", log, MODEL="demo") as server:
        # The first reply was to `serving`.
        assert server.get("/health").status_code == 200
    lines = [line for line in log.read_text().splitlines() if " embed_text started " in line]

    assert len(lines) == 1
    stages = {name: int(value) for name, value in re.findall(r"(\w+)_ms=(\d+)", lines[0])}
    assert {"framework", "imported", "forked", "replied"} <= set(stages)
    assert list(stages.values()) == sorted(stages.values())
    assert 0 < stages["framework"] < stages["replied"]
