"""The gateway on this machine: what `make serve` and `make dev` run.

    python -m dev.server [--reload]

PORT (8080) and HOST (127.0.0.1) say where; every other setting is the gateway's own. Without BUCKET_URL the
folder photos/ is the bucket, at first with a gallery of emoji.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from clip_embeddings.config import ROOT, ConfigError, load_settings
from clip_embeddings.engine.manifest import Manifest, ModelError, load_manifest
from clip_embeddings.runtime import DEMO, model_folder
from dev.sample_photos import make_gallery

# Nothing in it is tracked, and `make clean` leaves it alone: it may hold what people put there.
PHOTOS = ROOT / "photos"
PICTURE = "model_cache/demo/pictures/birthday-cake.png"
EXAMPLE = "model_cache/demo/example.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway until it is stopped; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.server", description="Serve every route here.")
    parser.add_argument("--reload", action="store_true", help="start again whenever a source file changes")
    options = parser.parse_args(argv)
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8080")
    try:
        manifest = load_manifest(
            model_folder(load_settings().model), ("text", "image"), allow_missing_towers=True
        )
        _check_free(host, port)
        bucket = os.environ.get("BUCKET_URL") or _own_folder()
    except (ConfigError, ModelError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "functions_framework", "--target", "gateway", "--source", "main.py"]
    command += ["--host", host, "--port", port]
    os.environ |= {"MODEL": _model(manifest), "BUCKET_URL": bucket}
    os.chdir(ROOT)
    reached = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    shown = "localhost" if reached == "127.0.0.1" else reached
    url, greeting = f"http://{reached}:{port}", _greeting(manifest, f"{shown}:{port}", bucket)
    if options.reload:
        return _reloading(command, url, greeting)
    server = subprocess.Popen(command)

    def stop(signum: int, frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if _wait_until_ready(url, lambda: server.poll() is None):
        print(greeting, flush=True)
    status = server.wait()
    return 0 if status in (0, -signal.SIGTERM, -signal.SIGINT) else status


def _reloading(command: Sequence[str], url: str, greeting: str) -> int:
    """Run the server until it is stopped, anew whenever a source file changes."""
    from watchfiles import run_process

    def greet() -> None:
        if _wait_until_ready(url, lambda: True):
            print(greeting, flush=True)

    threading.Thread(target=greet, daemon=True).start()
    run_process(
        ROOT / "clip_embeddings",
        ROOT / "functions",
        ROOT / "main.py",
        target=shlex.join(command),
        target_type="command",
        callback=lambda changes: print(f"{len(changes)} changed: restarting", flush=True),
    )
    return 0


def _model(manifest: Manifest) -> str:
    # Named outright, the demo model needs no warning: the greeting says what it is.
    return os.environ.get("MODEL") or manifest.name


def _own_folder() -> str:
    try:
        make_gallery(PHOTOS)
    except OSError as error:
        raise ConfigError(f"the folder photos/ cannot be made ({error.strerror}): set BUCKET_URL.") from None
    return PHOTOS.as_uri()


def _check_free(host: str, port: str) -> None:
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"PORT={port!r} is not valid: use a whole number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f"HOST={host!r} is not an address of this machine ({error.strerror}): leave it out, or "
                    "use 0.0.0.0 to be reached from elsewhere."
                ) from None
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}): choose another with PORT=8081 make serve."
            ) from None


def _wait_until_ready(url: str, alive: Callable[[], bool]) -> bool:
    """True once every tower has loaded and reproduced its canary, False if the server ended first."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(f"{url}/ready", headers={"X-API-Key": os.environ.get("API_KEY", "")})
    while alive():
        try:
            with opener.open(asked, timeout=60):
                return True
        except OSError:
            time.sleep(0.1)
    return False


def _greeting(manifest: Manifest, address: str, bucket: str) -> str:
    demo = manifest.name == DEMO
    about = " (the bundled demo: it knows emoji and little else)" if demo else ""
    picture = PICTURE if (ROOT / PICTURE).is_file() else "PICTURE.jpg"
    python = (
        Path(sys.executable).relative_to(ROOT) if Path(sys.executable).is_relative_to(ROOT) else "python3"
    )
    texts, pictures = "text" in manifest.towers, "image" in manifest.towers
    kinds = " and ".join(kind for kind, there in (("text", texts), ("pictures", pictures)) if there)
    space = " in one space" if texts and pictures else ""
    # The shell that it is pasted into may know it.
    curl = 'curl -s -H "X-API-Key: $API_KEY"' if os.environ.get("API_KEY") else "curl -s"
    lines = [
        "",
        f"Serving {manifest.name}{about} on http://{address}",
        f"{manifest.dimensions} dimensions, {kinds}{space}. Stop with Ctrl-C.",
    ]
    if pictures:
        lines.append(f"{_where(bucket)} Paste:")
    if texts and pictures:
        lines += ["", "  # a text finds pictures", f"  {curl} '{address}/search?q=birthday+cake&k=3'"]
    if texts:
        text = f"  {curl} {address}/embed/text -d 'text=birthday cake'"
        lines += ["", "  # a text becomes a vector", text]
    if pictures:
        image = f"  {curl} {address}/embed/image -F file=@{picture}"
        lines += ["", "  # a picture becomes a vector", image]
    if texts and pictures:
        lines += [
            "",
            "  # which text fits which picture",
            f"  {curl} {address}/embed/mixed -H 'Content-Type: application/json' -d @{EXAMPLE} \\",
            f"    | {python} model_cache/demo/compare.py",
        ]
    lines.append("")
    if demo:
        lines += ["Next: bake a real model and serve it, see README.md.", ""]
    return "\n".join(lines)


def _where(bucket: str) -> str:
    if bucket.startswith("gs:"):
        return f"Photos of {bucket} that are in the index are found there in a browser; a backfill fills it."
    folder = "the folder photos/" if bucket == PHOTOS.as_uri() else bucket
    return f"Drop pictures into {folder} and find them there in a browser."


if __name__ == "__main__":
    sys.exit(main())
