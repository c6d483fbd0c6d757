"""The Cloud SDK's Firestore emulator, on a free loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.serving import free_port

JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"


def missing() -> str | None:
    """Why the emulator cannot run on this machine; None if it can."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return "the Cloud SDK is not installed"
    if shutil.which("java") is None:
        return "Java is not installed"
    if not (Path(gcloud).resolve().parent.parent / JAR).is_file():
        return "the Cloud SDK's cloud-firestore-emulator is not installed"
    return None


@contextmanager
def running() -> Iterator[str]:
    """Start the emulator; yields host:port, for FIRESTORE_EMULATOR_HOST."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(
            ["gcloud", "emulators", "firestore", "start", f"--host-port={address}", "--quiet"],
            env=os.environ | {"CLOUDSDK_CONFIG": folder, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
            stdout=log,
            stderr=log,
            # Ending gcloud does not end the Java process that it started; ending the group ends both.
            start_new_session=True,
        )
        try:
            _wait(process, address, Path(folder, "log"))
            yield address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path, seconds: float = 60) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the emulator ended at once:\n{log.read_text()}")
        with suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the emulator does not answer:\n{log.read_text()}")
