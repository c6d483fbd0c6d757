"""Clients that openapi-python-client generates from an OpenAPI document, as a user would generate one."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class GeneratedClient:
    """A generated package and its client, connected to a server."""

    package: str
    connected: Any
    # What the generator did not understand.
    warnings: list[str]

    def call(self, operation: str, *args: Any, tag: str, **arguments: Any) -> Any:
        """The parsed reply to an operation; None for a status that the document does not have."""
        module = importlib.import_module(f"{self.package}.api.{tag}.{operation}")
        return module.sync(*args, client=self.connected, **arguments)

    def model(self, name: str) -> Callable[..., Any]:
        """The class of a schema."""
        cls: Callable[..., Any] = getattr(importlib.import_module(f"{self.package}.models"), name)
        return cls


@contextmanager
def generated_client(document: str, url: str, folder: Path, package: str) -> Iterator[GeneratedClient]:
    """The client of an OpenAPI document, generated into `folder`, for the server at `url`."""
    (folder / "openapi.json").write_text(document)
    (folder / "config.json").write_text(json.dumps({"post_hooks": []}))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--path", "openapi.json", "--output-path", package, "--config", "config.json"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    warnings = [
        line
        for line in (made.stdout + made.stderr).splitlines()
        if line.startswith(("WARNING", "ERROR", "Unsup"))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        try:
            with importlib.import_module(f"{package}.client").Client(url) as connected:
                yield GeneratedClient(package, connected, warnings)
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                del sys.modules[name]
