"""Counts the CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """The number of CPUs by affinity, or by the container's CFS quota if that is lower; at least 1.

    Quota files: https://docs.kernel.org/admin-guide/cgroup-v2.html (`cpu.max`) and
    https://docs.kernel.org/scheduler/sched-bwc.html (version 1).
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cpus, math.ceil(quota))) if quota else cpus


def _quota(cgroup: Path) -> float | None:
    """CPUs that the quota allows, or None without a quota."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        # cgroup v2 writes "max" if there is no quota.
        return None
    return cpus if cpus > 0 else None
