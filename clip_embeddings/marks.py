"""When this process reached the stages of its start, so that one log line tells where a start-up went.

Imported first of all, so it imports nothing else. A mark costs a microsecond.
"""

from __future__ import annotations

import os
import time


def mark(stage: str) -> bool:
    """Note that `stage` is reached now. False if it was before: then the first time counts."""
    now = time.monotonic()
    return _STAGES.setdefault(stage, now) is now


def milliseconds() -> dict[str, int]:
    """The stages that were reached, in that order, as `STAGE_ms`: milliseconds since the process started."""
    stages = sorted(_STAGES.items(), key=lambda item: item[1])
    return {f"{stage}_ms": round((reached - _STARTED) * 1000) for stage, reached in stages}


def _process_start() -> float:
    """When this process started, as time.monotonic() counts, to 10 ms. Now, if the system does not tell."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat") as file:
            # proc_pid_stat(5): field 22, in clock ticks since boot. The name in field 2 may contain spaces.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    # Some sandboxes count from another moment.
    return now - age if 0 <= age < 3600 else now


_STAGES: dict[str, float] = {}
_STARTED = _process_start()
