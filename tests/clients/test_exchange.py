"""What is exported can be searched by the programs that docs/photos-and-index.md names, with its lines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.exchange.formats import FORMATS
from tests.support.documents import Block, blocks
from tests.support.entries import direction, entry
from tests.support.indexes import opened_index
from tests.support.serving import ROOT, environment

PYTHON = ROOT / ".venv-clients-exchange" / "bin" / "python"
SNIPPETS = [block for block in blocks("docs/photos-and-index.md") if block.client]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with photos.npy, photos.jsonl and photos.parquet, and the names nearest to QUERY."""
    folder = tmp_path_factory.mktemp("exported")
    with opened_index(f"sqlite://{folder}/index.sqlite") as index:
        index.upsert([entry(f"{number:03}.jpg") for number in range(300)])
        nearest = [hit.entry.name for hit in index.query(direction("q"), "s", 5).hits]
        FORMATS["npy"].write(folder / "photos.npy", index.entries())
    return folder, nearest


@pytest.mark.clients
@pytest.mark.parametrize("block", SNIPPETS, ids=[block.client for block in SNIPPETS])
def test_the_lines_of_the_page_find_the_same(block: Block, exported: tuple[Path, list[str]]) -> None:
    if not PYTHON.exists():
        pytest.skip("the programs are not installed: make test-clients does it")
    folder, expected = exported
    if not (folder / "photos.parquet").exists():
        # Parquet is written where pyarrow is.
        arguments = ["photos.parquet", "--index", f"sqlite://{folder}/index.sqlite"]
        run(folder, f"import sys; from clip_embeddings.export import main; sys.exit(main({arguments}))")
    query = f"import numpy\nquery = numpy.array({direction('q').tolist()}, numpy.float32)\n"

    printed = run(folder, f"{query}{block.text}\nimport json\nprint(json.dumps(nearest))")

    assert json.loads(printed.splitlines()[-1]) == expected
    assert np.load(folder / "photos.npy").shape == (300, 16)


def run(folder: Path, source: str) -> str:
    """What a program prints in the environment of these clients, started in `folder`."""
    ended = subprocess.run(
        [str(PYTHON), "-c", source],
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
