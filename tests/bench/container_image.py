"""A folder with all that a container image of a function has: interpreter, packages, and staged functions.

The starts are measured from such a copy, because no other process uses its files. What others have mapped,
such as the interpreter that runs the bench, stays in memory when the page cache is dropped.
"""

from __future__ import annotations

import compileall
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import environments, services
from tests.bench.measure import Progress
from tests.bench.services import Service
from tests.bench.weights import BUILD
from tests.support.serving import ROOT

FUNCTIONS = ("empty", "embed_text", "embed_image")
# Parts of the standard library that container images do not have, or that are not Python.
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3", "config-*")


@dataclass(frozen=True)
class ContainerImage:
    """The folder, and the functions that it holds. Paths in `services` are below `root`."""

    root: Path
    services: dict[str, Service]

    def files(self) -> Iterator[Path]:
        """All regular files."""
        return (path for path in self.root.rglob("*") if path.is_file())

    def at(self, root: Path) -> ContainerImage:
        """The same image, mounted at `root`."""

        def moved(path: str | Path) -> Path:
            return root / Path(path).relative_to(self.root)

        services = {
            name: replace(
                service,
                folder=moved(service.folder),
                python=str(moved(service.python)),
                settings={**service.settings, "LD_LIBRARY_PATH": str(root / "python" / "lib")},
            )
            for name, service in self.services.items()
        }
        return ContainerImage(root, services)

    @property
    def packages(self) -> Path:
        """The folder of the installed packages."""
        return self.root / "python" / _LIBRARY / "site-packages"


_LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


def make(model: Path, progress: Progress) -> ContainerImage:
    """The image of `model`, with every function staged anew and byte-compiled as the buildpack does it.

    Raises:
        InstallationError: the packages cannot be installed.
    """
    root = BUILD / "image"
    environments.install("functions", progress)
    progress("copying interpreter and packages ...")
    shutil.rmtree(root, ignore_errors=True)
    python = _copy_python(root / "python")
    empty = root / "functions" / "empty"
    empty.mkdir(parents=True)
    shutil.copyfile(ROOT / "tests" / "bench" / "empty_function.py", empty / "main.py")
    made = {
        "empty": services.function("empty", "empty", folder=empty),
        **{
            name: services.staged(name, name, model, root / "functions")
            for name in FUNCTIONS
            if name != "empty"
        },
    }
    compileall.compile_dir(root / "functions", quiet=2)
    services_of_image = {name: replace(service, python=str(python)) for name, service in made.items()}
    return ContainerImage(root, services_of_image).at(root)


def _copy_python(target: Path) -> Path:
    """Copy the interpreter, its standard library, and the installed packages. Returns the interpreter."""
    (target / "bin").mkdir(parents=True)
    python = target / "bin" / "python3"
    shutil.copy(Path(sys.executable).resolve(), python)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, target / _LIBRARY, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    shared = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("INSTSONAME"))
    if shared.suffix != ".a" and shared.exists():
        shutil.copy(shared, target / "lib")
    packages = environments.packages("functions")
    ignored = [path.name for path in packages.iterdir() if environments.is_of_venv(path)]
    ignored.append("distutils-precedence.pth")
    shutil.copytree(packages, target / _LIBRARY / "site-packages", ignore=shutil.ignore_patterns(*ignored))
    return python
