"""The layers of the code, the size of its modules and its vocabulary, read from the sources."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.documents import blocks
from tests.support.serving import ROOT
from tests.support.syntax import PRODUCT, defined_names, imported_modules, module_name, sources

# From top to bottom, as docs/architecture.md draws them: a module imports only from its own package and from
# layers below. Names are packages and modules of clip_embeddings, and the packages beside it.
(PICTURE,) = (block for block in blocks("docs/architecture.md") if block.marker == "layers")
LAYERS = [line.split(", ") for line in PICTURE.text.splitlines()]
# Data that every layer reads.
LAYERS.append(["registry"])

# Words that the project used for something else than the field does. See the words in CONTRIBUTING.md.
RETIRED = frozenset(
    [
        "Ask",
        "Answer",
        "Embedded",
        "Convention",
        "Call",
        "CallerError",
        "patient",
        "explained",
        "partial",
        "limit_silence",
        "discard",
        "fit",
        "each",
        "single",
        "Collection",
        "returning",
        "foreign",
        "Photo",
        "Vanished",
        "Refused",
        "passing",
        "outdate",
        "Gate",
        "gate",
        "Background",
        "give_way",
        "give_memory_back",
        "pinned",
        "ask",
        "judge",
        "Stored",
        "Blob",
        "tries",
        "hold",
        "tidy",
        "reach",
        "unit",
        "side_by_side",
        "is_mine",
        "knock",
        "gallery",
        "local",
        "found",
    ]
)

MODULES = sources(*PRODUCT)
KNOWN = frozenset(map(module_name, MODULES))
LIBRARY = [
    path for path in MODULES if module_name(path).split(".")[0] in ("clip_embeddings", "dev", "functions")
]


def _layer(module: str) -> int:
    """The index of a module's layer in LAYERS."""
    package, *rest = module.split(".")
    if package != "clip_embeddings":
        name = package
    elif rest[-1:] == ["registry"] or rest in (["functions"], []):
        name = "registry"
    else:
        name = rest[0]
    layers = [index for index, names in enumerate(LAYERS) if name in names]
    assert layers, f"{module} is in no layer"
    return layers[0]


def _room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "clip_embeddings" else parts[0]


def _wrong_imports() -> Iterator[str]:
    for path in LIBRARY:
        module = module_name(path)
        for imported in sorted(imported_modules(path, KNOWN)):
            if imported.startswith("model_cache"):
                # The development server copies sample photos from the bundled model.
                continue
            same_room = _room(module) == _room(imported) and _layer(module) == _layer(imported)
            if not same_room and _layer(module) >= _layer(imported):
                yield f"{module} imports {imported}"


def test_every_module_imports_only_its_own_package_and_lower_layers() -> None:
    assert list(_wrong_imports()) == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = {module_name(path): imported_modules(path, KNOWN) for path in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_library_imports_nothing_of_the_repository_beside_itself() -> None:
    foreign = {
        f"{module_name(path)} imports {name}"
        for path in sources("clip_embeddings")
        for name in imported_modules(path, KNOWN)
        if not name.startswith("clip_embeddings")
    }
    assert foreign == set()


@pytest.mark.parametrize("path", sources("functions"), ids=lambda path: path.stem)
def test_an_entrypoint_fits_on_one_screen(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 30


def test_no_module_has_more_than_300_lines() -> None:
    long = {module_name(path): size for path in MODULES if (size := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_nothing_is_defined_under_a_retired_name() -> None:
    defined = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in MODULES
        for line, name in defined_names(path)
        if name.lstrip("_") in RETIRED
    ]
    assert defined == []
