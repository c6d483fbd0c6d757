"""Opens and runs a tower's ONNX Runtime session."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import ModelError, Tower
from clip_embeddings.lazy import Lazy
from clip_embeddings.marks import mark

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

# By the path of the graph: sessions that are being opened ahead of the first use.
OpenedSessions = MutableMapping[Path, "Lazy[ort.InferenceSession]"]

# Bytes of an image tower's files above which one image is work enough for several CPU threads. An int8
# ViT-B/32 has 97 MB: a second thread would cost it a quarter more CPU time.
LARGE_IMAGE_TOWER = 200_000_000


def uses_all_cpus(tower: Tower) -> bool:
    """Whether one run of `tower` takes every CPU, not one."""
    return tower.name == "image" and sum(file.bytes for file in tower.files) > LARGE_IMAGE_TOWER


def open_session(folder: Path, tower: Tower, threads: int) -> ort.InferenceSession:
    """Open the graph of `tower`, of the model in `folder`, for runs of `threads` CPU threads.

    A session of several threads must be opened after the fork, which loses them.

    Raises:
        ModelError: ONNX Runtime cannot open the graph.
    """
    mark(f"{tower.name}_opening")
    graph = folder / tower.files[0].path
    session = open_graph(graph, threads, convolutional=tower.convolutional)
    mark(f"{tower.name}_opened")
    return session


def open_graph(path: Path, threads: int, *, convolutional: bool = False) -> ort.InferenceSession:
    """Open the graph `path` for runs of `threads` CPU threads. Raises ModelError if that fails."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A pattern is one more block of memory for each new shape of input; measured, it saves no time.
    options.enable_mem_pattern = False
    # Spinning threads use billed CPU time between requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # bake has optimized the graph already, except for the tensor layout, which depends on the CPU. Choosing
    # it takes a third off the run time of convolutional networks; for others it only makes loading slower.
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if convolutional else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        providers = _providers(ort.get_available_providers())
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot open {path}: {error}") from error
    return session


def runs_on_cpu() -> bool:
    """Whether sessions run on the CPU, and on no other device."""
    import onnxruntime as ort

    return _providers(ort.get_available_providers()) == ["CPUExecutionProvider"]


def _providers(available: Sequence[str]) -> list[str]:
    """CUDA where onnxruntime-gpu is installed, then the CPU."""
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def run_session(session: ort.InferenceSession, batch: np.ndarray) -> np.ndarray:
    """Run `batch` through the model.

    Args:
        batch: (n, length) int64 token ids, or (n, 3, height, width) float32 pixels.

    Returns:
        The raw projection, not normalized: (n, d) float32.
    """
    (projection,) = session.run(None, {session.get_inputs()[0].name: batch})
    return projection  # type: ignore[no-any-return]
