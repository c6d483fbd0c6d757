"""A folder as a bucket: atomic, durable, safe for many threads and processes at once.

An object's name is its path below the folder. Its content type is guessed from its name. Files that other
programs write there are objects, too.
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
from itertools import islice
from pathlib import Path

from clip_embeddings.storage.directories import (
    lock_dir,
    open_dir,
    open_file,
    remove_abandoned,
    remove_file,
    split_name,
    temp_file,
    try_lock,
    walk_files,
)
from clip_embeddings.storage.types import (
    ALL_NAMES,
    BINARY,
    PAGE_SIZE,
    BadNameError,
    NameRange,
    NotFoundError,
    Stat,
    StorageError,
    TooLargeError,
    TransientError,
)

# Errnos that need an operator; all others (disk full, too many open files) are transient.
PERMANENT_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class FileBucket:
    """The objects below `folder`, which the first `create` makes, readable by its owner only. See Bucket."""

    folder: Path
    # Whether other programs write here as well. False: the generation is mtime, which `create` sets. True: it
    # is ctime, because other programs can set mtime to an old value, for example when they restore a backup.
    # The system sets ctime, which grows with every write and every move. Both are in nanoseconds.
    externally_written: bool = False

    @property
    def url(self) -> str:
        return f"{self.folder.as_uri().rstrip('/')}/"

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        with _translate_errors(), open_file(self.folder, _split(name)) as file:
            status = os.fstat(file)
            present = self._generation(status)
            if generation not in (None, present):
                raise NotFoundError("The object is not there in that generation.")
            if max_bytes is not None and status.st_size > max_bytes:
                raise TooLargeError(f"The object has more than {max_bytes:,} bytes.")
            with open(file, "rb", closefd=False) as stream:
                data = stream.read(status.st_size)
            if self.externally_written and self._generation(os.fstat(file)) != present:
                raise NotFoundError("The object changed while it was read.")
            return data, present

    def stat(self, name: str) -> Stat | None:
        try:
            with _translate_errors(), open_file(self.folder, _split(name)) as file:
                status = os.fstat(file)
        except NotFoundError:
            return None
        content_type = mimetypes.guess_type(name)[0] or BINARY
        return Stat(self._generation(status), status.st_size, content_type, status.st_mtime)

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        *folders, file_name = _split(name)
        with (
            _translate_errors(),
            temp_file(self.folder, data, time.time_ns()) as (temp_dir, temp_name),
            # A shared lock, so that `delete` does not remove a new folder before the link is in it.
            lock_dir(self.folder, fcntl.LOCK_SH),
            open_dir(self.folder, folders, make=True) as target_dir,
        ):
            try:
                os.link(
                    temp_name, file_name, src_dir_fd=temp_dir, dst_dir_fd=target_dir, follow_symlinks=False
                )
            except FileExistsError:
                return False
            os.fsync(target_dir)
        return True

    def delete(self, name: str) -> bool:
        try:
            with _translate_errors(), lock_dir(self.folder, fcntl.LOCK_EX):
                # Links, pipes and folders are not objects and are not removed.
                if self.stat(name) is None:
                    return False
                remove_file(self.folder, _split(name))
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        with _translate_errors():
            yield from walk_files(self.folder, "", prefix)

    def stats(self, prefix: str = "", within: NameRange = ALL_NAMES) -> Iterator[tuple[str, Stat]]:
        for page in self.name_pages(prefix, within):
            for name in page:
                # None for an object that was removed since the names were listed.
                if stat := self.stat(name):
                    yield name, stat

    def name_pages(
        self, prefix: str = "", within: NameRange = ALL_NAMES, page_size: int = PAGE_SIZE
    ) -> Iterator[list[str]]:
        with _translate_errors():
            names = walk_files(self.folder, "", prefix, within)
            while page := list(islice(names, page_size)):
                yield page

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        with ExitStack() as stack:
            try:
                with _translate_errors():
                    locked = try_lock(stack.enter_context(open_file(self.folder, _split(name))))
            except NotFoundError:
                locked = False
            yield locked

    def cleanup(self) -> None:
        with _translate_errors():
            remove_abandoned(self.folder)

    def _generation(self, status: os.stat_result) -> int:
        return status.st_ctime_ns if self.externally_written else status.st_mtime_ns


def _split(name: str) -> list[str]:
    parts = split_name(name)
    if parts is None:
        raise BadNameError("No file can have this name.")
    return parts


@contextmanager
def _translate_errors() -> Iterator[None]:
    # `from None`, because an OSError carries the file's name.
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError("There is no such object.") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            raise BadNameError("Something else than a file is in the way.") from None
        error_class = StorageError if error.errno in PERMANENT_ERRNOS else TransientError
        raise error_class(f"The folder of the bucket cannot be used: {error.strerror}.") from None
