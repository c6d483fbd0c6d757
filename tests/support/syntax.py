"""The project's sources as syntax trees: modules, what they import, what they define."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.serving import ROOT

PRODUCT = ("clip_embeddings", "deploy", "dev", "functions", "model_cache", "pipelines")


def sources(*folders: str) -> list[Path]:
    """The Python files below the given folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """`clip_embeddings/http/app.py` -> `clip_embeddings.http.app`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, known: frozenset[str]) -> set[str]:
    """The modules among `known` that a file imports, inside functions and for type checking too."""
    imported = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` and `from module import name` look alike.
            candidates = {f"{node.module}.{alias.name}" for alias in node.names} & known
            imported |= candidates or {node.module}
    return imported & known


def defined_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of everything a file defines: classes, functions, parameters, variables, attributes."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name
