"""The local server: runs the gateway on this machine, for `make serve` and `make dev`.

    python -m dev.server [--reload]

It listens on PORT (8080) of HOST (127.0.0.1); every other setting is the gateway's. Without BUCKET_URL the
folder photos/ is the bucket, which the first start fills with pictures of emoji. With a model that has no
image tower, photos are off.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from clip_embeddings.config import SWAGGER_UI, load_settings
from clip_embeddings.engine.manifest import Manifest, ModelError, find_model_folder, load_manifest
from clip_embeddings.errors import ConfigError
from clip_embeddings.paths import DEMO, MODEL_CACHE, ROOT
from dev.sample_photos import make_sample_photos

# Ignored by git and kept by `make clean`, because it may hold people's own pictures.
PHOTOS = ROOT / "photos"
# What a request that comes from this machine names as its host, in ALLOWED_HOSTS.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PICTURE = "model_cache/demo/pictures/birthday-cake.png"
EXAMPLE = "model_cache/demo/example.json"
# gunicorn gives requests 30 seconds to end.
STOP_SECONDS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway until it is stopped; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.server", description="Serve every route here.")
    parser.add_argument("--reload", action="store_true", help="start again whenever a source file changes")
    options = parser.parse_args(argv)
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8080")
    try:
        manifest = load_manifest(
            find_model_folder(load_settings().model, MODEL_CACHE),
            ("text", "image"),
            allow_missing_towers=True,
        )
        _check_free(host, port)
        # A model without an image tower indexes no photos: none are made for it.
        bucket_url = os.environ.get("BUCKET_URL") or (_default_bucket() if "image" in manifest.towers else "")
    except (ConfigError, ModelError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "functions_framework", "--target", "gateway", "--source", "main.py"]
    command += ["--host", host, "--port", port]
    # Naming the demo model avoids the warning about it: the greeting describes it.
    os.environ |= {"MODEL": os.environ.get("MODEL") or manifest.name, "BUCKET_URL": bucket_url}
    if find_spec(SWAGGER_UI.module):
        os.environ["DOCS_PAGE"] = os.environ.get("DOCS_PAGE") or "swagger"
    if _is_loopback(host):
        # Nobody else can see the photos.
        os.environ["SERVE_ORIGINALS"] = os.environ.get("SERVE_ORIGINALS") or "true"
        os.environ["ALLOWED_HOSTS"] = os.environ.get("ALLOWED_HOSTS") or ",".join(
            dict.fromkeys((*LOCAL_HOSTS, host))
        )
    os.chdir(ROOT)
    client_host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    shown_host = "localhost" if client_host == "127.0.0.1" else client_host
    url = f"http://{client_host}:{port}"
    greeting = _greeting(manifest, f"{shown_host}:{port}", bucket_url)
    if options.reload:
        return _serve_with_reload(command, url, greeting)
    return _serve(command, url, greeting)


def _serve(command: Sequence[str], url: str, greeting: str) -> int:
    """Run the server until it is stopped; returns its exit status, 0 if a signal stopped it."""
    server = subprocess.Popen(command)

    def stop(signum: int, frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if _wait_until_ready(url, lambda: server.poll() is None):
        print(greeting, flush=True)
    status = server.wait()
    return 0 if status in (0, -signal.SIGTERM, -signal.SIGINT) else status


def _serve_with_reload(command: Sequence[str], url: str, greeting: str) -> int:
    """Run the server until it is stopped, and restart it whenever a source file changes."""
    from watchfiles import watch

    stopped = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()

    # Before the first server starts, so that none is left behind.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def greet() -> None:
        if _wait_until_ready(url, lambda: not stopped.is_set()):
            print(greeting, flush=True)

    server = subprocess.Popen(command)
    threading.Thread(target=greet, daemon=True).start()
    sources = (ROOT / "clip_embeddings", ROOT / "functions", ROOT / "main.py")
    try:
        for changes in watch(*sources, stop_event=stopped, raise_interrupt=False):
            print(f"{len(changes)} changed: restarting", flush=True)
            _end(server)
            server = subprocess.Popen(command)
    finally:
        _end(server)
    return 0


def _end(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and wait for its end.

    By SIGTERM: a process that a shell started in the background ignores SIGINT until gunicorn has started.
    """
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _default_bucket() -> str:
    """The URL of the folder photos/, made if it is missing. Raises ConfigError."""
    try:
        make_sample_photos(PHOTOS)
    except OSError as error:
        raise ConfigError(f"the folder photos/ cannot be made ({error.strerror}): set BUCKET_URL.") from None
    return PHOTOS.as_uri()


def _check_free(host: str, port: str) -> None:
    """Raises ConfigError if no server can listen there."""
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


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, a name or an address that a server can listen on."""
    return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback


def _wait_until_ready(url: str, is_alive: Callable[[], bool]) -> bool:
    """True once every tower has loaded and reproduced its canary, False if the server ended before."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{url}/ready", headers={"X-API-Key": os.environ.get("API_KEY", "")})
    while is_alive():
        try:
            with opener.open(request, timeout=60):
                return True
        except OSError:
            time.sleep(0.1)
    return False


def _greeting(manifest: Manifest, address: str, bucket_url: str) -> str:
    """What is served where, and commands to try: only commands that the model supports."""
    is_demo = manifest.name == DEMO
    description = " (the bundled demo: it knows emoji and little else)" if is_demo else ""
    picture = PICTURE if (ROOT / PICTURE).is_file() else "PICTURE.jpg"
    python = (
        Path(sys.executable).relative_to(ROOT) if Path(sys.executable).is_relative_to(ROOT) else "python3"
    )
    has_text, has_image = "text" in manifest.towers, "image" in manifest.towers
    kinds = " and ".join(kind for kind, served in (("text", has_text), ("pictures", has_image)) if served)
    space = " in one space" if has_text and has_image else ""
    # The variable, because the key itself must not be printed, and the user's shell may have the variable.
    curl = 'curl -s -H "X-API-Key: $API_KEY"' if os.environ.get("API_KEY") else "curl -s"
    lines = [
        "",
        f"Serving {manifest.name}{description} on http://{address}",
        f"{manifest.dimensions} dimensions, {kinds}{space}. Stop with Ctrl-C.",
    ]
    lines.append(_photos_hint(bucket_url) if has_image else "Photos are off: the model has no image tower.")
    lines[-1] += " Paste:"
    if has_text and has_image:
        lines += ["", "  # a text finds pictures", f"  {curl} '{address}/search?q=birthday+cake&k=3'"]
    if has_text:
        text = f"  {curl} {address}/embed/text -d 'text=birthday cake'"
        lines += ["", "  # a text becomes a vector", text]
    if has_image:
        image = f"  {curl} {address}/embed/image -F file=@{picture}"
        lines += ["", "  # a picture becomes a vector", image]
    if has_text and has_image:
        lines += [
            "",
            "  # which text fits which picture",
            f"  {curl} {address}/embed/mixed -H 'Content-Type: application/json' -d @{EXAMPLE} \\",
            f"    | {python} model_cache/demo/compare.py",
        ]
    lines.append("")
    if is_demo:
        lines += ["Next: bake a real model and serve it, see README.md.", ""]
    return "\n".join(lines)


def _photos_hint(bucket_url: str) -> str:
    if bucket_url.startswith("gs:"):
        return (
            f"Photos of {bucket_url} that are in the index are found there in a browser; a backfill fills it."
        )
    folder = "the folder photos/" if bucket_url == PHOTOS.as_uri() else bucket_url
    return f"Drop pictures into {folder} and find them there in a browser."


if __name__ == "__main__":
    sys.exit(main())
