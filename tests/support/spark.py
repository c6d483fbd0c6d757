"""Jobs of Spark on this machine, started as a person does it, in an environment of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.support.serving import ROOT, environment

VENV = ROOT / ".venv-spark"
PYTHON = VENV / "bin" / "python"
# Two executor processes of one CPU and 1,024 MB each.
CLUSTER = "local-cluster[2,1,1024]"
# Executors of a cluster on one machine.
EXECUTOR = "CoarseGrainedExecutorBackend"

# Prints the rows of a folder of Parquet files as lines of JSON.
READ = """
import sys, pyarrow.parquet
for batch in pyarrow.parquet.ParquetDataset(sys.argv[1]).read().to_batches(1000):
    sys.stdout.write(batch.to_pandas().astype({"generation": "Int64"}).to_json(orient="records", lines=True,
        double_precision=10))
"""


def missing() -> str | None:
    """Why no job can run here; None if it can."""
    if not PYTHON.exists():
        return "Spark is not installed: make .venv-spark/installed does it"
    return None if _java_home() else "no Java 17"


@dataclass(frozen=True)
class Job:
    """A running job."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> str:
        """What it prints, once it ended well."""
        status = self.process.wait(600)
        log = self.log.read_text(errors="replace")
        assert status == 0, log[-5000:]
        return log

    def executors(self) -> list[int]:
        """The processes of the executors."""
        return [pid for pid in _descendants(self.process.pid) if EXECUTOR in _command(pid)]


@contextmanager
def running(folder: Path, *arguments: str, master: str = CLUSTER, **settings: str) -> Iterator[Job]:
    """`python -m pipelines.embed_spark` with `arguments`; whatever is left of it ends with the block."""
    log = folder / f"job-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "pipelines.embed_spark", *arguments],
            cwd=ROOT,
            env=job_environment(folder, master) | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Job(process, log)
    finally:
        end(process)


def job_environment(folder: Path, master: str) -> dict[str, str]:
    """The environment of a driver that keeps its files in `folder`."""
    options = {
        "spark.local.dir": str(folder / "spark"),
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }
    flags = " ".join(f"--conf {name}={value}" for name, value in options.items())
    return environment(
        {
            "JAVA_HOME": str(_java_home()),
            "SPARK_HOME": str(next(VENV.glob("lib/python*/site-packages/pyspark"))),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_WORKER_DIR": str(folder / "work"),
            "PYSPARK_PYTHON": str(PYTHON),
            "PYSPARK_SUBMIT_ARGS": f"--master {master} {flags} pyspark-shell",
        }
    )


def run(folder: Path, *arguments: str, master: str = "local[2]", **settings: str) -> str:
    """What a job prints, once it ended well. `settings` are further variables of its environment."""
    with running(folder, *arguments, master=master, **settings) as job:
        return job.wait()


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of the Parquet files in a folder."""
    printed = subprocess.run([str(PYTHON), "-c", READ, str(folder)], capture_output=True, check=True).stdout
    return [orjson.loads(line) for line in printed.splitlines() if line]


def parts(folder: Path) -> list[Path]:
    """The files that a job has written so far."""
    return list(folder.glob("part-*.parquet"))


def wait_for_parts(job: Job, folder: Path, count: int) -> None:
    """Wait until a job has written `count` files."""
    deadline = time.monotonic() + 300
    while len(parts(folder)) < count:
        assert job.process.poll() is None, job.log.read_text(errors="replace")[-5000:]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.05)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a job with everything that it started."""
    for pid in [*_descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Workers that have outlived their executor are in the group of the driver.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def _java_home() -> Path | None:
    """The home of Java 17, which is the newest that every release of Spark takes."""
    homes = sorted(Path("/usr/lib/jvm").glob("java-17-*"))
    if homes:
        return homes[0]
    java = shutil.which("java")
    home = os.environ.get("JAVA_HOME") or (java and Path(java).resolve().parents[1])
    return Path(home) if home else None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = [int(word) for word in (task / "children").read_text().split()]
                found += children
                pending += children
    return found
