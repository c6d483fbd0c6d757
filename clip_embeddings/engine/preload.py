"""Opens a model while its process starts, so that the first request finds it open.

Sessions come first. Opening one is work for ONNX Runtime more than for Python, so a thread does it beside the
imports of the function, in the process that forks the serving one, which shares what is open by then. A fork
copies neither threads nor what they are in the middle of: before it, the thread finishes a session and ends.

Canaries come last: the serving process runs them in a thread, beside what else it begins with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import ModelError, load_manifest
from clip_embeddings.engine.prefetch import prefetch
from clip_embeddings.engine.session import OpenedSessions, open_session, runs_on_cpu, uses_all_cpus
from clip_embeddings.lazy import Lazy
from clip_embeddings.logs import logger

if TYPE_CHECKING:
    from clip_embeddings.engine.model import Model


def open_sessions(folder: Path, towers: Sequence[str]) -> OpenedSessions:
    """Begin to open the sessions of `towers` of the model in `folder`, those that survive a fork.

    Of a damaged model nothing is opened. Whoever loads it will report that.
    """
    try:
        manifest = load_manifest(folder, towers, allow_missing_towers=True)
    except ModelError:
        return {}
    served = [tower for name in towers if (tower := manifest.towers.get(name))]
    prefetch(folder, [file for tower in served for file in tower.files])
    # A device does not survive a fork. To ask for devices imports ONNX Runtime, in this thread: imports in
    # two threads only wait for each other.
    if not runs_on_cpu():
        return {}
    sessions = {
        folder / tower.files[0].path: Lazy(partial(open_session, folder, tower, threads=1))
        for tower in served
        if not uses_all_cpus(tower)
    }
    _open_until_fork(list(sessions.values()))
    return sessions


def _open_until_fork(sessions: Sequence[Lazy[object]]) -> None:
    forking = threading.Event()

    def work() -> None:
        for session in sessions:
            if forking.is_set():
                return
            try:
                session.get()
            except ModelError:
                # The first request tries again, and is told.
                return

    def finish() -> None:
        forking.set()
        thread.join()

    # Not a daemon: a process that cannot start waits for it, because C++ takes the end of Python for a crash.
    thread = threading.Thread(target=work, name="preload")
    thread.start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=finish)


def run_canaries_after_fork(model: Model, towers: Sequence[str]) -> None:
    """After each fork from now on, open `towers` in the child and run their canaries, in a thread."""

    def work() -> None:
        for name in towers:
            try:
                model.tower(name).get().canary.get()
            except ModelError as error:
                # The first request tries again, and is told.
                logger.error("The %s tower cannot be used: %s", name, error)
            except Exception:
                logger.exception("The %s tower cannot be used", name)

    def start() -> None:
        threading.Thread(target=work, name="canaries", daemon=True).start()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=start)
