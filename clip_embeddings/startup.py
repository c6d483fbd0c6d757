"""Starts a function.

The one place where a configuration error ends a process. Every import here comes before the model is opened,
so this module imports little.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import ModelError, find_model_folder
from clip_embeddings.engine.preload import open_sessions, run_canaries_after_fork
from clip_embeddings.errors import ConfigError
from clip_embeddings.functions import find_function
from clip_embeddings.marks import mark
from clip_embeddings.paths import MODEL_CACHE, default_model

if TYPE_CHECKING:
    from clip_embeddings.runtime import Runtime

# Seconds for which a thread may keep Python's lock while others wait for it.
SWITCH_INTERVAL = 0.0005


@contextmanager
def starting(name: str) -> Iterator[Runtime]:
    """The runtime of the function `name`; the block makes what answers its requests.

    The model is opened meanwhile, so the block also imports what only it needs. A wrong setup ends the
    process with one sentence.
    """
    # Nothing that start-up makes is garbage. To look for some takes time, and after a fork copies memory.
    gc.disable()
    # A thread that needs Python's lock for a moment, as those that open models do, waits for 5 ms by default.
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        function = find_function(name)
        folder = find_model_folder(default_model(os.environ), MODEL_CACHE)
        sessions = open_sessions(folder, function.towers) if function.preload else {}

        from clip_embeddings.process import import_decoders, prepare_server, start_runtime

        runtime = start_runtime(function, sessions)
        if function.preload:
            run_canaries_after_fork(runtime.default_model(), runtime.default_towers())
        yield runtime
        prepare_server(runtime)
        if function.preload and "image" in function.towers:
            import_decoders()
        mark("imported")
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(mark, "forked"))
    except (ConfigError, ModelError) as error:
        sys.exit(f"{name} cannot start: {error}")
    finally:
        gc.freeze()
        gc.enable()
