"""A folder on storage where each read takes a while, as where the cloud streams a container image.

The file system is read-only and speaks the kernel's FUSE protocol itself, so it needs root and /dev/fuse, and
no package. Every read is answered a fixed time after it was asked for, however many are under way: what is
asked for at once arrives at once. Names and sizes take no time, because streamed images have a list of them.
What was read once is in the page cache until the file system is unmounted.

Protocol: https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h
Run as `python -m tests.bench.slow_disk FOLDER MOUNTPOINT MILLISECONDS`; it prints a line when it is mounted,
and serves until its standard input ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.serving import ROOT

DEVICE = Path("/dev/fuse")
# The largest read that the kernel asks for at once: its default for files read ahead.
MAX_READ = 128 * 1024
# Reads under way at once.
PARALLEL = 64
# Seconds for which the kernel may believe what it was told of a name.
VALID = 86_400
_LOOKUP, _FORGET, _GETATTR, _STATFS, _READ, _INIT = 1, 2, 3, 17, 15, 26
_READDIR, _RELEASE, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = 28, 18, 29, 36, 38, 42
# FUSE_ASYNC_READ, _PARALLEL_DIROPS, _NO_OPEN_SUPPORT, _MAX_PAGES, _NO_OPENDIR_SUPPORT.
_FLAGS = 1 << 0 | 1 << 18 | 1 << 17 | 1 << 22 | 1 << 24
_MS_RDONLY, _MNT_DETACH = 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Why there is no such file system here, or an empty text."""
    if os.geteuid() != 0:
        return "a slow disk is simulated by a file system, which takes root to mount"
    return "" if DEVICE.exists() else f"a slow disk is simulated by FUSE, and there is no {DEVICE}"


@contextmanager
def mounted(folder: Path, mountpoint: Path, milliseconds: float) -> Iterator[None]:
    """Show `folder` at `mountpoint` during the `with` block."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.bench.slow_disk", str(folder), str(mountpoint), str(milliseconds)]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        if not server.stdout.readline():
            raise RuntimeError(f"{mountpoint} could not be mounted")
        yield
    finally:
        server.communicate()


class _SlowFolder:
    """Answers the kernel's requests. A node is a number that stands for a path; 1 is the folder."""

    def __init__(self, folder: Path, device: int, seconds: float) -> None:
        self._device = device
        self._seconds = seconds
        self._paths = {1: str(folder)}
        self._nodes = {str(folder): 1}
        self._reads: queue.SimpleQueue[tuple[float, int, str, int, int]] = queue.SimpleQueue()

    def serve(self) -> None:
        """Answer until the file system is unmounted."""
        threading.Thread(target=self._answer_reads, daemon=True).start()
        while True:
            try:
                request = os.read(self._device, MAX_READ + 4096)
            except OSError as error:
                # ENOENT: the request was interrupted meanwhile. ENODEV: unmounted.
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT, _DESTROY):
                continue
            try:
                if opcode == _READ:
                    _, offset, size = struct.unpack_from("<QQI", request, 40)
                    due = time.monotonic() + self._seconds
                    self._reads.put((due, unique, self._paths[node], offset, size))
                else:
                    self._reply(unique, self._answer(opcode, node, request[40:]))
            except OSError as error:
                self._reply(unique, error=error.errno or errno.EIO)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == _INIT:
            major, _, ahead, _ = struct.unpack_from("<IIII", body)
            sizes = (PARALLEL, PARALLEL, MAX_READ, 1, MAX_READ // 4096, 0, 0)
            return struct.pack("<IIIIHHIIHHI28x", major, 31, ahead, _FLAGS, *sizes)
        if opcode == _LOOKUP:
            path = os.path.join(self._paths[node], os.fsdecode(body.rstrip(b"\0")))
            try:
                found = os.stat(path)
            except FileNotFoundError:
                # Node 0: there is no such name, which the kernel may remember.
                return struct.pack("<QQQQII", 0, 0, VALID, 0, 0, 0) + bytes(88)
            child = self._nodes.setdefault(path, len(self._nodes) + 1)
            self._paths[child] = path
            return struct.pack("<QQQQII", child, 0, VALID, VALID, 0, 0) + _attributes(child, found)
        if opcode == _GETATTR:
            return struct.pack("<QII", VALID, 0, 0) + _attributes(node, os.stat(self._paths[node]))
        if opcode == _READDIR:
            _, offset, size = struct.unpack_from("<QQI", body)
            return _entries(self._paths[node], offset, size)
        if opcode == _STATFS:
            return bytes(80)
        if opcode in (_RELEASE, _RELEASEDIR):
            return b""
        # For OPEN and OPENDIR the kernel then opens by itself.
        raise OSError(errno.ENOSYS, "not needed")

    def _answer_reads(self) -> None:
        """All reads take the same time, so they fall due in the order in which they came."""
        while True:
            due, unique, path, offset, size = self._reads.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with open(path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
            self._reply(unique, data)

    def _reply(self, unique: int, data: bytes = b"", error: int = 0) -> None:
        try:
            os.writev(self._device, [struct.pack("<IiQ", 16 + len(data), -error, unique), data])
        except OSError as failed:
            # ENOENT: who asked does not wait any more.
            if failed.errno not in (errno.ENOENT, errno.ENODEV):
                raise


def _attributes(node: int, found: os.stat_result) -> bytes:
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    nanoseconds = (0, found.st_mtime_ns % 10**9, 0)
    owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
    return struct.pack(
        "<QQQQQQIIIIIIIIII", node, found.st_size, found.st_blocks, *times, *nanoseconds, *owner, 0, 4096, 0
    )


def _entries(folder: str, offset: int, size: int) -> bytes:
    """The names in `folder` from number `offset` on, as many as fit into `size` bytes."""
    packed = b""
    for number, name in enumerate(sorted(os.listdir(folder))[offset:], offset + 1):
        encoded = os.fsencode(name)
        kind = stat.S_IFMT(os.stat(os.path.join(folder, name)).st_mode) >> 12
        entry = struct.pack("<QQII", number, number, len(encoded), kind) + encoded
        entry += bytes(-len(entry) % 8)
        if len(packed) + len(entry) > size:
            break
        packed += entry
    return packed


def main() -> None:
    """Run the command line."""
    folder, mountpoint, milliseconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MAX_READ}"
    if _LIBC.mount(b"slow", mountpoint.encode(), b"fuse", _MS_RDONLY, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    served = _SlowFolder(folder, device, milliseconds / 1000)
    threading.Thread(target=served.serve, daemon=True).start()
    print("mounted", flush=True)
    try:
        sys.stdin.read()
    finally:
        _LIBC.umount2(mountpoint.encode(), _MNT_DETACH)


if __name__ == "__main__":
    main()
