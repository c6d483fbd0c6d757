"""The files of this package that a function can import: found in its source code, without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# The folders whose modules are staged.
PACKAGES = ("clip_embeddings", "functions")


def needed_files(modules: Iterable[str], root: Path, registries: Mapping[str, Sequence[str]]) -> list[Path]:
    """The files of `modules` and of every module below `root` that these import, however late.

    Data files beside a package's `__init__.py` are included.

    Args:
        registries: by the name of a registry's module, the modules that are imported by names in it. A module
            needs them if it imports the registry and calls `import_module` with anything but a constant.
    """
    files: dict[str, Path] = {}
    pending = [*modules]
    while pending:
        module = pending.pop()
        path = _source(module, root)
        if path is None or module in files:
            continue
        files[module] = path
        pending += _parents(module)
        imports = _imports(path, module)
        pending += imports.modules
        if imports.by_name:
            pending += (
                name
                for registry in registries
                if registry in imports.modules
                for name in registries[registry]
            )
    data = (file for path in files.values() if path.name == "__init__.py" for file in _data(path.parent))
    return sorted({*files.values(), *data})


def _source(module: str, root: Path) -> Path | None:
    """The file of a module; None if it is not one that is staged."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    base = root.joinpath(*parts)
    candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _data(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        ignored = path.suffix in (".py", ".pyc") or re.fullmatch(r"requirements.*\.txt|\..*", path.name)
        if path.is_file() and not ignored:
            yield path


def _imports(path: Path, module: str) -> _ImportCollector:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    collector = _ImportCollector(package)
    collector.visit(ast.parse(path.read_bytes(), filename=str(path)))
    return collector


class _ImportCollector(ast.NodeVisitor):
    """Collects the modules that a module of `package` imports, those for type checkers aside."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.modules: list[str] = []
        # Whether it also imports modules whose names are not in its source code.
        self.by_name = False

    def visit_Import(self, node: ast.Import) -> None:
        self.modules += (alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            # from .a import b: one dot is the package itself, each further dot its parent.
            base = self.package.split(".")[: self.package.count(".") + 2 - node.level]
            module = ".".join((*base, *filter(None, (module,))))
        # An imported name may itself be a module.
        self.modules += (module, *(f"{module}.{alias.name}" for alias in node.names))

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        first = node.args[0] if node.args else None
        if name == "import_module":
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                self.modules.append(first.value)
            else:
                self.by_name = True
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
        for child in node.orelse if name == "TYPE_CHECKING" else (node.test, *node.body, *node.orelse):
            self.visit(child)
