"""Files below a root folder: opened without following links, written whole or not at all. POSIX only."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES
from clip_embeddings.storage.types import ALL_NAMES, NameRange

# Files are written here and then linked to their place. It is below the root, hence in the same file system.
TEMP_DIR = ".partial"

# Opening a symbolic link is an error, so no name leads out of the root.
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Non-blocking, because opening a named pipe would otherwise wait for a writer.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def split_name(name: str) -> list[str] | None:
    """The parts of a name that is a safe relative path; None if it is unsafe or too long for a file system.

    Most file systems limit a part to 255 bytes. The limit for the whole name is that of Cloud Storage.
    """
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return None
    safe = all(0 < size <= 255 for size in sizes) and sum(sizes) <= MAX_OBJECT_NAME_BYTES
    if not safe or "\0" in name or parts[0] == TEMP_DIR or not {".", ".."}.isdisjoint(parts):
        return None
    return parts


@contextmanager
def open_dir(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`.

    Args:
        make: create missing folders. They survive a power failure once the block has ended.

    Raises:
        OSError: one of the parts is not a folder.
    """
    changed_dirs = []
    with ExitStack() as stack:
        if make and not root.is_dir():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            changed_dirs.append(_open(stack, root.parent, os.O_RDONLY))
        # Links in the path of the root itself are the operator's choice, and are followed.
        current = _open(stack, root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            if make and _make_dir(part, current):
                changed_dirs.append(current)
            current = _open(stack, part, DIR_FLAGS, current)
        yield current
        # Synced at the end, when it costs little: a journal has most likely recorded these changes together
        # with those that the block synced.
        for changed_dir in changed_dirs:
            os.fsync(changed_dir)


def _open(stack: ExitStack, path: Path | str, flags: int, parent: int | None = None) -> int:
    descriptor = os.open(path, flags, dir_fd=parent)
    stack.callback(os.close, descriptor)
    return descriptor


def _make_dir(name: str, parent: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


@contextmanager
def open_file(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the regular file `parts` below `root`. Raises OSError if there is none."""
    with open_dir(root, parts[:-1]) as parent:
        file = os.open(parts[-1], FILE_FLAGS, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield file
    finally:
        os.close(file)


@contextmanager
def lock_dir(root: Path, operation: int) -> Iterator[None]:
    """Hold the lock of the root folder for the block; `operation` is LOCK_SH or LOCK_EX of fcntl.

    The system releases the lock when its process dies.
    """
    with open_dir(root, []) as folder:
        fcntl.flock(folder, operation)
        yield


def try_lock(file: int) -> bool:
    """Lock one file until its descriptor is closed; False if another descriptor holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def temp_file(root: Path, data: bytes, mtime_ns: int) -> Iterator[tuple[int, str]]:
    """A complete, synced file, to be linked to its place: the descriptor of its folder, and its name."""
    with open_dir(root, [TEMP_DIR], make=True) as folder:
        name, file = _create_locked(folder)
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(file, remaining) :]
            os.utime(file, ns=(mtime_ns, mtime_ns))
            os.fsync(file)
            yield folder, name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.close(file)


def _create_locked(folder: int) -> tuple[str, int]:
    # The lock shows that the writer of a file is alive. Creating and locking are two steps, so
    # `remove_abandoned` may have removed the file between them: then its link count is 0, and another one is
    # created.
    while True:
        name = uuid.uuid4().hex
        file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return name, file
        os.close(file)


def remove_abandoned(root: Path) -> None:
    """Remove the temporary files whose writers are dead."""
    with suppress(FileNotFoundError), open_dir(root, [TEMP_DIR]) as folder:
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                file = os.open(name, FILE_FLAGS, dir_fd=folder)
                try:
                    if try_lock(file):
                        os.unlink(name, dir_fd=folder)
                finally:
                    os.close(file)


def remove_file(root: Path, parts: Sequence[str]) -> None:
    """Remove a file, and the folders above it that become empty. Raises OSError if the file is missing."""
    with open_dir(root, parts[:-1]) as parent:
        os.unlink(parts[-1], dir_fd=parent)
    with suppress(OSError):
        for depth in range(len(parts) - 1, 0, -1):
            with open_dir(root, parts[: depth - 1]) as parent:
                os.rmdir(parts[depth - 1], dir_fd=parent)


def walk_files(
    folder: Path | str, folder_name: str, prefix: str, within: NameRange = ALL_NAMES
) -> Iterator[str]:
    """The names of all regular files below `folder` that start with `prefix`, in the order of their bytes.

    Memory holds the names of one folder, and of those above it.

    Args:
        folder_name: name of `folder` itself, "" or ending with a slash; it begins every name.
        within: only these names.
    """
    try:
        with os.scandir(folder) as entries:
            # A folder comes where the names in it do: "a/b" follows "a.b".
            content = sorted(
                (f"{folder_name}{entry.name}/" if is_dir else folder_name + entry.name, is_dir, entry.path)
                for entry in entries
                if (is_dir := entry.is_dir(follow_symlinks=False)) or entry.is_file(follow_symlinks=False)
            )
    except FileNotFoundError:
        # The folder was removed since it was listed.
        return
    for name, is_dir, path in content:
        if not is_dir:
            if name.startswith(prefix) and name in within and split_name(name):
                yield name
        elif name != f"{TEMP_DIR}/" and _may_hold(name, prefix, within):
            yield from walk_files(path, name, prefix, within)


def _may_hold(folder_name: str, prefix: str, within: NameRange) -> bool:
    """Whether names below a folder may start with `prefix` and be in the range."""
    return (
        (folder_name.startswith(prefix) or prefix.startswith(folder_name))
        and (within.end is None or folder_name < within.end)
        and (folder_name >= within.start or within.start.startswith(folder_name))
    )
