"""Makes gunicorn serve with our worker.

functions-framework builds gunicorn's configuration itself and leaves the worker's class at its default. It
imports the function first, so that the default can be changed by then. Nothing else of gunicorn is replaced.
"""

from __future__ import annotations

import os

from msgspec import structs

from clip_embeddings.server.limits import ServerLimits


def use_our_worker(limits: ServerLimits) -> None:
    """Have gunicorn serve with a `BufferingWorker`, if it is gunicorn that will serve.

    THREADS, functions-framework's variable, replaces the number of threads of `limits`.
    """
    try:
        from gunicorn import config

        from clip_embeddings.server.worker import BufferingWorker
    except ImportError:
        # Windows has no gunicorn: functions-framework uses Flask's server.
        return
    if threads := os.environ.get("THREADS"):
        limits = structs.replace(limits, threads=int(threads))
    config.WorkerClass.default = type("Worker", (BufferingWorker,), {"limits": limits})
    # A header that claims to come from a proxy must not change the path. The default trusts SCRIPT_NAME and
    # PATH_INFO from loopback, and answers 500 if they do not fit the path.
    config.ForwarderHeaders.default = ""
    # A socket for commands to gunicorn's master, which nobody sends.
    config.ControlSocketDisable.default = True
