"""Opens, verifies and runs a tower's ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import ModelError, ModelFile, sha256_of
from clip_embeddings.logs import logger

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort


def open_session(
    folder: Path, files: tuple[ModelFile, ...], threads: int, *, convolutional: bool = False
) -> ort.InferenceSession:
    """Open the graph `files[0]`, while other threads check the SHA-256 of every file.

    Call this in the serving process, after the fork: a fork loses the session's threads.

    Raises:
        ModelError: a file is missing or differs from the baked one, or ONNX Runtime cannot open the graph.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="verify") as pool:
        checks = [pool.submit(_verify, folder / file.path, file.sha256) for file in files]
        try:
            session = _open(folder / files[0].path, threads, convolutional)
        finally:
            # A damaged file explains a failed open better than ONNX Runtime's error.
            for check in checks:
                check.result()
    return session


def _verify(path: Path, sha256: str) -> None:
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): restore the file.") from None
    if actual != sha256:
        raise ModelError(f"{path} is damaged: its SHA-256 is not the manifest's. Bake the model again.")


def _open(path: Path, threads: int, convolutional: bool) -> ort.InferenceSession:
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
    # The provider in use: without a device, ONNX Runtime falls back to the CPU.
    logger.info("%s runs on %s", path.name, session.get_providers()[0].removesuffix("ExecutionProvider"))
    return session


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
