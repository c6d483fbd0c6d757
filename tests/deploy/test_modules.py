"""Which modules a function imports, read from source code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.modules import needed_files

REGISTRY = "clip_embeddings.protocols.registry"
REGISTRIES = {REGISTRY: ("clip_embeddings.protocols.one", "clip_embeddings.protocols.two")}
PACKAGE = {"clip_embeddings/__init__.py": "", "functions/__init__.py": ""}


def needed(sources: Mapping[str, str], folder: Path) -> set[str]:
    """The files that functions/f.py needs, of these."""
    for name, text in {**PACKAGE, **sources}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    files = needed_files(["functions.f"], folder, REGISTRIES)
    return {path.relative_to(folder).as_posix() for path in files} - {*PACKAGE}


@pytest.mark.parametrize(
    "source",
    [
        "import clip_embeddings.a",
        "import clip_embeddings.a as b, json",
        "from clip_embeddings import a",
        "from clip_embeddings.a import b",
        "def f():\n    from clip_embeddings.a import b",
        "class A:\n    def f(self):\n        if self:\n            import clip_embeddings.a",
        "try:\n    import clip_embeddings.a\nexcept ImportError:\n    pass",
        "from importlib import import_module\nimport_module('clip_embeddings.a')",
        "import importlib\nprint(importlib.import_module('clip_embeddings.a').b)",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import clip_embeddings.a",
    ],
)
def test_an_import_in_any_form_is_found(source: str, tmp_path: Path) -> None:
    assert needed({"functions/f.py": source, "clip_embeddings/a.py": ""}, tmp_path) == {
        "functions/f.py",
        "clip_embeddings/a.py",
    }


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("clip_embeddings/deep/b.py", "from ..a import c"),
        ("clip_embeddings/deep/b.py", "from .. import a"),
        ("clip_embeddings/deep/b/__init__.py", "from ...a import c"),
    ],
)
def test_a_relative_import_is_found(module: str, source: str, tmp_path: Path) -> None:
    sources = {
        "functions/f.py": "import clip_embeddings.deep.b",
        "clip_embeddings/deep/__init__.py": "",
        module: source,
        "clip_embeddings/a.py": "",
    }

    assert needed(sources, tmp_path) == {*sources}


def test_imports_for_type_checkers_are_not_followed(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import clip_embeddings.a"

    assert needed({"functions/f.py": source, "clip_embeddings/a.py": ""}, tmp_path) == {"functions/f.py"}


def test_what_a_module_imports_is_needed_too_in_a_circle_as_well(tmp_path: Path) -> None:
    sources = {
        "functions/f.py": "import clip_embeddings.a",
        "clip_embeddings/a.py": "import clip_embeddings.b",
        "clip_embeddings/b.py": "import clip_embeddings.a",
        "clip_embeddings/c.py": "",
    }

    assert needed(sources, tmp_path) == {*sources} - {"clip_embeddings/c.py"}


def test_a_package_comes_with_its_parents_and_its_data_files(tmp_path: Path) -> None:
    sources = {
        "functions/f.py": "from clip_embeddings.deep.page import page",
        "clip_embeddings/deep/__init__.py": "import clip_embeddings.a",
        "clip_embeddings/deep/page/__init__.py": "",
        "clip_embeddings/deep/page/style.css": "",
        "clip_embeddings/a.py": "",
    }
    unneeded = {
        "clip_embeddings/deep/page/.hidden": "",
        "clip_embeddings/deep/page/requirements-dev.txt": "",
        "clip_embeddings/deep/page/notes/more.txt": "",
        "clip_embeddings/deep/page/other.py": "",
        "clip_embeddings/elsewhere/data.txt": "",
    }

    assert needed(sources | unneeded, tmp_path) == {*sources}


PROTOCOLS = {
    "clip_embeddings/protocols/__init__.py": "",
    "clip_embeddings/protocols/registry.py": "MODULES = ('one', 'two')",
    "clip_embeddings/protocols/one.py": "import clip_embeddings.a",
    "clip_embeddings/protocols/two.py": "",
    "clip_embeddings/protocols/old.py": "",
    "clip_embeddings/a.py": "",
}


@pytest.mark.parametrize("call", ["import_module(name)", "importlib.import_module(names[0])"])
def test_whoever_loads_a_registry_s_modules_needs_them(call: str, tmp_path: Path) -> None:
    sources = {"functions/f.py": f"from {REGISTRY} import MODULES\n{call}"} | PROTOCOLS

    assert needed(sources, tmp_path) == {*sources} - {"clip_embeddings/protocols/old.py"}


@pytest.mark.parametrize(
    "source", [f"import {REGISTRY}", f"import {REGISTRY}\nimport_module('clip_embeddings.protocols')"]
)
def test_whoever_only_reads_a_registry_needs_no_module_of_it(source: str, tmp_path: Path) -> None:
    assert needed({"functions/f.py": source} | PROTOCOLS, tmp_path) == {
        "functions/f.py",
        "clip_embeddings/protocols/__init__.py",
        "clip_embeddings/protocols/registry.py",
    }


def test_packages_that_are_not_staged_are_not_followed(tmp_path: Path) -> None:
    sources = {"functions/f.py": "import numpy, deploy.plan, tests", "deploy/plan.py": ""}

    assert needed(sources, tmp_path) == {"functions/f.py"}
