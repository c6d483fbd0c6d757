"""Requests that are the first of their kind and arrive together."""

from __future__ import annotations

import subprocess
import sys

from tests.support.serving import ROOT

# Forty classes, each used by eight threads at once for the first time.
CODE = """
import sys, threading, types
from clip_embeddings.protocols.items import validate
sys.setswitchinterval(1e-6)
source = "from __future__ import annotations\\nimport msgspec\\nclass B(msgspec.Struct):\\n"
source += "".join(f"    f{i}: list[str] | None = None\\n" for i in range(12))
source += "class A(msgspec.Struct):\\n    x: list[B]\\n    y: B | None = None\\n"
for number in range(40):
    module = sys.modules[f"m{number}"] = types.ModuleType(f"m{number}")
    exec(source, module.__dict__)
    barrier = threading.Barrier(8)
    def use():
        barrier.wait()
        validate({"x": [{"f1": ["a"]}], "y": {"f2": ["b"]}}, module.A)
    threads = [threading.Thread(target=use) for _ in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
"""


def test_many_threads_may_use_a_struct_for_the_first_time() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
