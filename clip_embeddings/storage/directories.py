"""Files below a folder: reached without following links, written whole or not at all. POSIX only."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# Where files are until they are whole: below the folder itself, hence in its file system.
PARTIAL = ".partial"

# A link on the way or at its end is an error, so no name leads out of the folder.
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Non-blocking, so that a pipe somebody put there holds nobody up.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def parts_of(name: str) -> list[str] | None:
    """The parts of a safe path; None if `name` is none, or not one that every file system can have."""
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return None
    safe = all(0 < size <= 255 for size in sizes) and sum(sizes) <= 1024
    if not safe or "\0" in name or parts[0] == PARTIAL or not {".", ".."}.isdisjoint(parts):
        return None
    return parts


@contextmanager
def open_dir(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`. Raises OSError: one of them is not a folder.

    With `make`, missing folders are made; they are durable once the block has ended.
    """
    grown = []
    with ExitStack() as stack:
        if make and not root.is_dir():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            grown.append(_open(stack, root.parent, os.O_RDONLY))
        # Links above the root are the operator's own.
        here = _open(stack, root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            if make and _make(part, here):
                grown.append(here)
            here = _open(stack, part, FOLDER, here)
        yield here
        # Last: a journal has most likely taken these along with what the block synced.
        for folder in grown:
            os.fsync(folder)


def _open(stack: ExitStack, path: Path | str, flags: int, folder: int | None = None) -> int:
    descriptor = os.open(path, flags, dir_fd=folder)
    stack.callback(os.close, descriptor)
    return descriptor


def _make(name: str, folder: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


@contextmanager
def opened(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the regular file `parts` below `root`. Raises OSError: there is none."""
    with open_dir(root, parts[:-1]) as folder:
        file = os.open(parts[-1], FILE, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield file
    finally:
        os.close(file)


@contextmanager
def locked(root: Path, how: int, *, make: bool = False) -> Iterator[None]:
    """Hold the lock of the whole folder, LOCK_SH or LOCK_EX. Whoever dies lets go."""
    with open_dir(root, [], make=make) as folder:
        fcntl.flock(folder, how)
        yield


def try_lock(file: int) -> bool:
    """Take the lock of one file until it is closed; False if another descriptor has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def temp_file(root: Path, data: bytes, mtime_ns: int) -> Iterator[tuple[int, str]]:
    """A whole file on the disk, to be linked or moved to its place: the folder it is in and its name."""
    with open_dir(root, [PARTIAL], make=True) as folder:
        name, file = _create_locked(folder)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            os.utime(file, ns=(mtime_ns, mtime_ns))
            os.fsync(file)
            yield folder, name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.close(file)


def _create_locked(folder: int) -> tuple[str, int]:
    # The lock says that the writer lives. It cannot be had together with the file, so a sweep in between
    # may have removed the file: then it has no name any more.
    while True:
        name = uuid.uuid4().hex
        file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return name, file
        os.close(file)


def remove_abandoned(root: Path) -> None:
    """Remove the partial files whose writers are dead."""
    with suppress(FileNotFoundError), open_dir(root, [PARTIAL]) as folder:
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                file = os.open(name, FILE, dir_fd=folder)
                try:
                    if try_lock(file):
                        os.unlink(name, dir_fd=folder)
                finally:
                    os.close(file)


def remove(root: Path, parts: Sequence[str]) -> None:
    """Remove a file, and the folders above it that are empty then. Raises OSError: it is not there."""
    with open_dir(root, parts[:-1]) as folder:
        os.unlink(parts[-1], dir_fd=folder)
    with suppress(OSError):
        for depth in range(len(parts) - 1, 0, -1):
            with open_dir(root, parts[: depth - 1]) as folder:
                os.rmdir(parts[depth - 1], dir_fd=folder)


def walk(folder: Path | str, above: str, prefix: str) -> Iterator[str]:
    """The paths of all regular files below `folder`, with `above` before each, that start with `prefix`."""
    # What goes away meanwhile is not there.
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                inside = f"{name}/"
                if name != PARTIAL and (inside.startswith(prefix) or prefix.startswith(inside)):
                    yield from walk(entry.path, inside, prefix)
            elif entry.is_file(follow_symlinks=False) and name.startswith(prefix) and parts_of(name):
                yield name
