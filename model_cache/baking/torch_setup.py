"""Importing open_clip beside a CPU build of torch."""

import importlib
import sys
from types import ModuleType
from typing import Any

# A registered operator lives only as long as its library object.
_kept_libraries: list[Any] = []


def import_open_clip() -> ModuleType:
    """Import and return the ``open_clip`` module, whichever build torchvision has.

    open_clip imports torchvision for its transforms only. A torchvision wheel whose compiled operators
    do not match the installed torch fails while it is being imported, because it attaches to operators
    that nobody declared. Declaring their schemas lets the import pass; nothing here ever calls them.

    Raises ImportError if torchvision or open_clip is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # The failed import leaves submodules behind that would be reused half-initialised.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _register_torchvision_schemas()
    return importlib.import_module("open_clip")


def _register_torchvision_schemas() -> None:
    library: Any = importlib.import_module("torch.library").Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_libraries.append(library)
