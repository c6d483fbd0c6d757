"""Imports open_clip beside a CPU build of torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

# A registered operator exists only as long as its library object.
_registered_libraries: list[Any] = []


def import_open_clip() -> ModuleType:
    """Import and return the `open_clip` module, whichever build of torchvision is installed.

    open_clip uses torchvision for its transforms only. If the compiled operators of a torchvision wheel do
    not match the installed torch, importing it fails, because it registers implementations of operators that
    were not declared. Declaring their schemas makes the import succeed; the operators are never called here.

    Raises:
        ImportError: torchvision or open_clip is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # The failed import leaves submodules behind that the next one would reuse half-initialized.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _register_torchvision_schemas()
    return importlib.import_module("open_clip")


def _register_torchvision_schemas() -> None:
    library: Any = importlib.import_module("torch.library").Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _registered_libraries.append(library)
