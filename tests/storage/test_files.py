"""A folder as a bucket: no access outside of it, no partial writes, no files left behind."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import BadNameError, NotFoundError, StorageError, TransientError
from tests.support.buckets import write_object
from tests.support.serving import ROOT
from tests.support.threads import run_threads


@pytest.fixture
def bucket(tmp_path: Path) -> FileBucket:
    return FileBucket(tmp_path / "bucket")


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


HOSTILE = [
    "",
    "/",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a\0b",
    "/etc/passwd",
]
TOO_LONG = ["a" * 256, "é" * 128, "/".join(["abcdefgh"] * 200)]


@pytest.mark.parametrize("name", [*HOSTILE, *TOO_LONG, "\ud800", ".partial", ".partial/x"])
def test_names_that_are_not_a_path_inside_the_folder(bucket: FileBucket, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    bucket.create("a/b", b"inside")
    before = _files(tmp_path)

    with pytest.raises(BadNameError):
        bucket.create(name, b"")
    with pytest.raises(BadNameError):
        bucket.read(name)
    assert bucket.stat(name) is None
    assert not bucket.delete(name)
    with bucket.try_lock(name) as locked:
        assert not locked
    assert _files(tmp_path) == before


@pytest.mark.parametrize("name", ["link", "folder/x", "loop", "dangling", "up/outside"])
def test_links_are_not_followed(bucket: FileBucket, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"outside")
    bucket.create("inside", b"")
    targets: dict[str, Path | str] = {"link": outside / "x", "folder": outside, "loop": "loop", "up": ".."}
    for link, target in targets.items():
        (bucket.folder / link).symlink_to(target)
    (bucket.folder / "dangling").symlink_to(outside / "new")

    assert bucket.stat(name) is None
    assert not bucket.delete(name)
    assert list(bucket.names()) == ["inside"]
    with suppress(BadNameError):
        assert not bucket.create(name, b"changed")
    assert _files(outside) == [Path("x")]
    assert (outside / "x").read_bytes() == b"outside"


def test_only_regular_files_are_objects(bucket: FileBucket) -> None:
    bucket.create("folder/x", b"")
    os.mkfifo(bucket.folder / "pipe")

    for name in ("folder", "pipe", "folder/x/y", "pipe/y"):
        assert bucket.stat(name) is None
        assert not bucket.delete(name)
    assert list(bucket.names()) == ["folder/x"]
    with pytest.raises(BadNameError):
        bucket.create("folder/x/y", b"")


def test_only_the_owner_may_read(bucket: FileBucket) -> None:
    bucket.create("a/b", b"")

    for path, mode in (("", 0o700), ("a", 0o700), ("a/b", 0o600)):
        assert stat.S_IMODE((bucket.folder / path).stat().st_mode) == mode


def test_files_of_other_programs_are_objects(bucket: FileBucket) -> None:
    bucket.folder.mkdir()
    (bucket.folder / "photo.jpg").write_bytes(b"jpeg")

    stat = bucket.stat("photo.jpg")
    assert stat is not None
    assert stat.content_type == "image/jpeg"
    assert bucket.read("photo.jpg", generation=stat.generation)[0] == b"jpeg"


def test_a_file_that_comes_back_with_its_old_times_is_newer(tmp_path: Path) -> None:
    bucket = FileBucket(tmp_path / "bucket", externally_written=True)
    generations = [write_object(bucket, "a.jpg", b"first")]
    file, elsewhere = bucket.folder / "a.jpg", tmp_path / "elsewhere"

    def move_away_and_back() -> None:
        file.rename(elsewhere)
        elsewhere.rename(file)

    def write_with_old_time() -> None:
        file.write_bytes(b"other")
        os.utime(file, ns=(10**18, 10**18))

    for change in (move_away_and_back, write_with_old_time):
        # The system's clock for files ticks every few milliseconds.
        time.sleep(0.02)
        change()
        stat = bucket.stat("a.jpg")
        assert stat is not None
        generations.append(stat.generation)

    assert generations == sorted(set(generations))
    assert bucket.read("a.jpg", generation=generations[-1]) == (b"other", generations[-1])
    with pytest.raises(NotFoundError):
        bucket.read("a.jpg", generation=generations[0])


def test_a_file_that_grows_while_it_is_read_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = FileBucket(tmp_path / "bucket", externally_written=True)
    write_object(bucket, "a.jpg", b"half")
    time.sleep(0.02)
    fstat = os.fstat
    results: list[os.stat_result] = []

    def grow(file: int) -> os.stat_result:
        results.append(fstat(file))
        # The first call only checks that it is a regular file.
        if len(results) == 2:
            with (bucket.folder / "a.jpg").open("ab") as stream:
                stream.write(b" and half")
        return results[-1]

    monkeypatch.setattr(os, "fstat", grow)

    with pytest.raises(NotFoundError, match="changed while it was read"):
        bucket.read("a.jpg")


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open", "mkdir"])
def test_a_full_disk_keeps_old_objects_and_leaves_no_new_files(
    bucket: FileBucket, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    bucket.create("a", b"old")
    real = getattr(os, call)

    def full(*args: object, **kwargs: object) -> object:
        # Only calls that create or write files need space.
        if call != "open" or (isinstance(args[1], int) and args[1] & os.O_CREAT):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "secret")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(TransientError, match="No space left") as caught:
            bucket.create("folder/new", b"data")
        assert "secret" not in str(caught.value)
    assert not list((bucket.folder / ".partial").iterdir())
    assert bucket.read("a")[0] == b"old"
    assert bucket.create("folder/new", b"data")


def test_a_file_larger_than_the_size_limit_of_the_process(bucket: FileBucket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TransientError):
            bucket.create("a", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert bucket.stat("a") is None
    assert _files(bucket.folder) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_without_write_permission_is_a_permanent_error(
    bucket: FileBucket, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        bucket.create("a", b"")
    assert not isinstance(caught.value, TransientError)


def test_of_eight_processes_one_creates(bucket: FileBucket) -> None:
    code = (
        "import sys; from pathlib import Path; from clip_embeddings.storage.file import FileBucket\n"
        "bucket = FileBucket(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "print(sum(bucket.create(f'{n}/x', sys.argv[2].encode()) for n in range(50)))"
    )
    processes = [_python(code, str(bucket.folder), str(number)) for number in range(8)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    created = [int(process.communicate()[0]) for process in processes]

    assert sum(created) == 50
    winners = [bucket.read(f"{number}/x")[0] for number in range(50)]
    assert [winners.count(b"%d" % number) for number in range(8)] == created
    assert len(_files(bucket.folder)) == 50


def test_killed_writers_leave_whole_objects_and_files_that_cleanup_removes(bucket: FileBucket) -> None:
    code = (
        "import os, sys; from pathlib import Path; from clip_embeddings.storage.file import FileBucket\n"
        "bucket = FileBucket(Path(sys.argv[1])); print('ready', flush=True); n = 0\n"
        "data = bytes(300_000)\n"
        "while True: bucket.create(f'{os.getpid()}/{n}', data); n += 1"
    )
    for delay in (0.0, 0.011, 0.023, 0.037, 0.05, 0.071):
        process = _python(code, str(bucket.folder))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert {len(bucket.read(name)[0]) for name in bucket.names()} <= {300_000}
    bucket.cleanup()
    assert list((bucket.folder / ".partial").iterdir()) == []
    assert len(_files(bucket.folder)) == len(list(bucket.names()))


def test_cleanup_after_a_crash_between_link_and_unlink(bucket: FileBucket) -> None:
    bucket.create("a", b"whole")
    os.link(bucket.folder / "a", bucket.folder / ".partial" / "left")

    assert list(bucket.names()) == ["a"]
    bucket.cleanup()

    assert _files(bucket.folder) == [Path("a")]
    assert bucket.read("a")[0] == b"whole"


def test_cleanup_keeps_the_files_of_live_writers(bucket: FileBucket) -> None:
    done = threading.Event()

    def cleanup() -> None:
        while not done.is_set():
            bucket.cleanup()

    thread = threading.Thread(target=cleanup)
    thread.start()
    try:
        assert all(bucket.create(f"{number}", b"data") for number in range(100))
    finally:
        done.set()
        thread.join()


def test_folders_are_removed_with_their_last_object_but_not_under_a_writer(bucket: FileBucket) -> None:
    def churn(number: int) -> None:
        for round_ in range(40):
            assert bucket.create(f"a/b/{number}-{round_}", b"")
            assert bucket.delete(f"a/b/{number}-{round_}")

    run_threads([partial(churn, number) for number in range(4)])

    assert not (bucket.folder / "a").exists()


def test_a_lock_ends_with_its_block_and_with_its_process(bucket: FileBucket) -> None:
    bucket.create("a", b"")
    with bucket.try_lock("a") as first, bucket.try_lock("a") as second:
        assert (first, second) == (True, False)
    code = (
        "import sys; from pathlib import Path; from clip_embeddings.storage.file import FileBucket\n"
        "with FileBucket(Path(sys.argv[1])).try_lock('a') as locked:\n"
        "    print(locked, flush=True); sys.stdin.readline()"
    )
    process = _python(code, str(bucket.folder))
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    with bucket.try_lock("a") as locked:
        assert not locked
    process.kill()
    process.communicate()
    with bucket.try_lock("a") as locked:
        assert locked
    with bucket.try_lock("not there") as locked:
        assert not locked


def _python(code: str, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
