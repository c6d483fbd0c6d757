"""Reads the files that a start needs ahead, where the storage is slow to answer.

A start reads modules, libraries and weights as it comes to them, one after the other. Where a container
image is streamed over a network, each read takes milliseconds and most of a start is waiting, while what is
asked for at once arrives at once. Threads read, because file systems in user space drop most advice
(`posix_fadvise`).
A disk that answers quickly is left to the system, which reads ahead in larger pieces.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from clip_embeddings.engine.manifest import ModelFile

THREADS = 16
# Seconds that a read takes at least on storage where this pays. A disk answers in a tenth of it.
SLOW = 0.002
# Bytes of one read.
PIECE = 256 * 1024
# Files of packages that every model needs, in the order of their imports.
PACKAGES = {
    "numpy": ("_core/_multiarray_umath*.so", "../numpy.libs/*.so*", "*/__pycache__/*.pyc"),
    "onnxruntime": ("capi/onnxruntime_pybind11_state*.so", "capi/__pycache__/*.pyc"),
    "clip_embeddings": ("__pycache__/*.pyc", "*/__pycache__/*.pyc"),
}


def prefetch(folder: Path, files: Sequence[ModelFile]) -> None:
    """Have threads read the packages of a serving process, then `files` of the model in `folder`.

    Nothing is done if the model is in the page cache already, or on storage that answers quickly.
    """
    if sys.platform != "linux" or not any(_is_slow(folder / file.path) for file in files):
        return
    pieces = _pieces(folder, files)
    lock = threading.Lock()

    def work() -> None:
        buffer = bytearray(PIECE)
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            with suppress(OSError):
                _read(*piece, buffer)

    for _ in range(THREADS):
        threading.Thread(target=work, name="prefetch", daemon=True).start()


def _pieces(folder: Path, files: Sequence[ModelFile]) -> Iterator[tuple[Path, int]]:
    """Files, and offsets of what is to be read of them."""
    for path in _package_files():
        with suppress(OSError):
            yield from ((path, offset) for offset in range(0, path.stat().st_size, PIECE))
    for file in files:
        # A table is read row by row, as rows are needed.
        begin, size = file.table or (file.bytes, 0)
        for start, end in ((0, begin), (begin + size, file.bytes)):
            yield from ((folder / file.path, offset) for offset in range(start, end, PIECE))


def _package_files() -> Iterator[Path]:
    for package, patterns in PACKAGES.items():
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for pattern in patterns:
                yield from Path(folder).glob(pattern)


def _read(path: Path, offset: int, buffer: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        # Nothing beyond the piece, which another thread reads or nobody needs.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(file.fileno(), [buffer], offset)


def _is_slow(path: Path) -> bool:
    """Whether a byte at the end of the file takes long to read."""
    started = time.perf_counter()
    with suppress(OSError), path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(file.fileno(), [bytearray(1)], max(0, os.fstat(file.fileno()).st_size - 1))
    return time.perf_counter() - started > SLOW
