"""A limit on the memory of a process under test, as a container has it."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

# Runs the rest of the command line in a cgroup, or under a limit of anonymous memory.
_ENTER = """
import os, resource, sys
procs, limit, *command = sys.argv[1:]
if procs:
    open(procs, "w").write(str(os.getpid()))
else:
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
os.execv(command[0], command)
"""


@contextmanager
def confined(limit: int) -> Iterator[Sequence[str]]:
    """A command that runs the command after it, and all its processes, within `limit` bytes of memory.

    As root it is a memory cgroup, whose processes the kernel ends when they need more: that fails the test.
    Otherwise RLIMIT_DATA limits the anonymous memory of each process.
    """
    folder = _make_cgroup(limit)
    procs = str(folder / "cgroup.procs") if folder else ""
    try:
        yield [sys.executable, "-c", _ENTER, procs, str(limit)]
        if folder:
            assert _killed(folder) == 0, "the kernel ended a process, because it needed more memory"
    finally:
        if folder:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cgroup. Its last process may still be leaving it."""
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"processes are left in {folder}")


def _make_cgroup(limit: int) -> Path | None:
    """A new memory cgroup, of either version; None where none can be made."""
    if os.geteuid() != 0:
        return None
    for base, limit_file in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        folder = base / f"confined-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit_file).write_text(str(limit))
        except OSError:
            folder.rmdir()
            continue
        return folder
    return None


def _killed(folder: Path) -> int:
    """How many processes the kernel has ended in a cgroup."""
    for name in ("memory.oom_control", "memory.events"):
        if (folder / name).exists():
            fields = dict(line.split() for line in (folder / name).read_text().splitlines())
            return int(fields["oom_kill"])
    return 0
