"""A folder as a bucket: atomic, durable, for many threads and processes at once.

An object's name is its path below the folder. Its generation is a time in nanoseconds: its modification time,
which every write here sets; where other programs write, the time of its last change of any kind. Its content
type is guessed from its name. Files that people put there are objects too.
"""

from __future__ import annotations

import errno
import fcntl
import mimetypes
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.storage.directories import (
    locked,
    open_dir,
    opened,
    parts_of,
    remove,
    remove_abandoned,
    temp_file,
    try_lock,
    walk,
)
from clip_embeddings.storage.types import (
    BINARY,
    BadNameError,
    ChangedError,
    NotFoundError,
    Stat,
    StorageError,
    TooLargeError,
    TransientError,
)

# What only a person can put right; everything else (disk full, too many open files) may pass.
LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class FileBucket:
    """The objects below `folder`, which the first write makes, for this user only. See Bucket."""

    folder: Path
    # Whether other programs write here, who set modification times as they like: a picture that comes back
    # from another folder, or from a backup, has its old one. The time of the last change (ctime) is the
    # system's own, and grows with every write and every move.
    externally_written: bool = False

    @property
    def url(self) -> str:
        return f"{self.folder.as_uri().rstrip('/')}/"

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        with _translate_errors(), opened(self.folder, _parts(name)) as file:
            found = os.fstat(file)
            present = self._generation(found)
            if generation not in (None, present):
                raise NotFoundError("The object is not there in that generation.")
            if max_bytes is not None and found.st_size > max_bytes:
                raise TooLargeError(f"The object has more than {max_bytes:,} bytes.")
            with open(file, "rb", closefd=False) as stream:
                data = stream.read(found.st_size)
            if self.externally_written and self._generation(os.fstat(file)) != present:
                raise NotFoundError("The object changed while it was read.")
            return data, present

    def stat(self, name: str) -> Stat | None:
        try:
            with _translate_errors(), opened(self.folder, _parts(name)) as file:
                found = os.fstat(file)
        except NotFoundError:
            return None
        content_type = mimetypes.guess_type(name)[0] or BINARY
        return Stat(self._generation(found), found.st_size, content_type, found.st_mtime)

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        *folders, last = _parts(name)
        with (
            _translate_errors(),
            temp_file(self.folder, data, time.time_ns()) as (source, whole),
            # Shared, so that `delete` does not remove a new folder before the link is in it.
            locked(self.folder, fcntl.LOCK_SH),
            open_dir(self.folder, folders, make=True) as target,
        ):
            try:
                os.link(whole, last, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                return False
            os.fsync(target)
        return True

    def write(
        self, name: str, data: bytes, content_type: str = BINARY, *, if_generation: int | None = None
    ) -> int:
        *folders, last = _parts(name)
        with _translate_errors(), locked(self.folder, fcntl.LOCK_EX, make=True):
            present = self._expect(name, if_generation)
            # The clock may stand still or go back; generations do not.
            generation = max(time.time_ns(), present + 1)
            with (
                temp_file(self.folder, data, generation) as (source, whole),
                open_dir(self.folder, folders, make=True) as target,
            ):
                os.replace(whole, last, src_dir_fd=source, dst_dir_fd=target)
                os.fsync(target)
                if self.externally_written:
                    generation = self._generation(os.stat(last, dir_fd=target, follow_symlinks=False))
        return generation

    def delete(self, name: str, *, if_generation: int | None = None) -> bool:
        try:
            with _translate_errors(), locked(self.folder, fcntl.LOCK_EX):
                if self.stat(name) is None:
                    return False
                self._expect(name, if_generation)
                remove(self.folder, _parts(name))
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        with _translate_errors():
            yield from walk(self.folder, "", prefix)

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        for name in sorted(self.names(prefix)):
            # What went away meanwhile is not there.
            if found := self.stat(name):
                yield name, found

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        with ExitStack() as stack:
            try:
                with _translate_errors():
                    held = try_lock(stack.enter_context(opened(self.folder, _parts(name))))
            except NotFoundError:
                held = False
            yield held

    def cleanup(self) -> None:
        with _translate_errors():
            remove_abandoned(self.folder)

    def _generation(self, found: os.stat_result) -> int:
        return found.st_ctime_ns if self.externally_written else found.st_mtime_ns

    def _expect(self, name: str, generation: int | None) -> int:
        """The present generation, 0 if there is none. Raises ChangedError if it is not the one expected."""
        found = self.stat(name)
        present = found.generation if found else 0
        if generation not in (None, present):
            raise ChangedError("The object is in another generation.")
        return present


def _parts(name: str) -> list[str]:
    parts = parts_of(name)
    if parts is None:
        raise BadNameError("No file can have this name.")
    return parts


@contextmanager
def _translate_errors() -> Iterator[None]:
    # `from None`: an OSError carries the file's name.
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError("There is no such object.") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            raise BadNameError("Something else than a file is in the way.") from None
        kind = StorageError if error.errno in LASTING else TransientError
        raise kind(f"The folder of the bucket cannot be used: {error.strerror}.") from None
