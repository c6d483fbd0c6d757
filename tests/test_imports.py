"""What a serving process holds: nothing that baking needs, and only what its own inputs need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pictures import data_uri, picture, web
from tests.support.serving import ROOT, Server, serving, worker

# `tokenizers` is for models whose tokenizer is not CLIP's.
NEVER = {"torch", "open_clip", "transformers", "timm", "torchvision", "scipy", "tokenizers"}
PICTURES = {"PIL", "pillow_heif", "requests"}
TEXTS = {"ftfy", "regex"}


def libraries(server: Server) -> set[str]:
    """Packages whose compiled parts are mapped into the serving process."""
    maps = Path(f"/proc/{worker(server)}/maps").read_text()
    return {line.rpartition("site-packages/")[2].partition("/")[0] for line in maps.splitlines()}


def modules(server: Server) -> set[str]:
    """Top-level packages that the serving process has imported, as the wrapper tells."""
    return set(server.get("/modules").json())


@pytest.fixture
def wrapper(tmp_path: Path) -> str:
    """A source like main.py, but GET /modules lists what the serving process has imported."""
    path = tmp_path / "wrapper.py"
    path.write_text(
        f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import main

def __getattr__(name):
    function = getattr(main, name)
    def wrapped(request):
        if request.path == "/modules":
            return json.dumps(sorted({{module.partition(".")[0] for module in sys.modules}}))
        return function(request)
    return wrapped
"""
    )
    return str(path)


def test_a_process_that_did_everything_never_imported_torch(wrapper: str, log: Path) -> None:
    with (
        web({"/a": picture()}) as site,
        serving("gateway", log, source=wrapper, FETCH_PRIVATE_HOSTS="127.0.0.1") as server,
    ):
        heic = data_uri(picture(kind="HEIC"))
        body = server.post("/embed/mixed", json={"texts": ["Köln"], "images": [f"{site}/a", heic]}).json()
        server.post("/embed/text", data={"text": "a"})
        server.post("/embed/image", files={"file": picture()})
        server.get("/ready")

        assert body["errors"] == []
        assert modules(server) >= {"onnxruntime", *TEXTS, *PICTURES}
        assert modules(server).isdisjoint(NEVER)
        assert "onnxruntime" in libraries(server)
        assert libraries(server).isdisjoint(NEVER)


def test_a_function_for_texts_imports_nothing_for_pictures(wrapper: str, log: Path) -> None:
    with serving("embed_text", log, source=wrapper) as server:
        assert server.post("/", json={"texts": ["Köln"]}).status_code == 200
        assert server.post("/", data={"text": "a"}).status_code == 200
        assert server.get("/ready").status_code == 200

        assert modules(server) >= TEXTS
        assert modules(server).isdisjoint(NEVER | PICTURES)
        assert libraries(server).isdisjoint(NEVER | PICTURES)


def test_a_function_for_pictures_imports_nothing_for_texts(wrapper: str, log: Path) -> None:
    with serving("embed_image", log, source=wrapper) as server:
        assert server.post("/", files={"file": picture()}).status_code == 200
        assert server.post("/", json={"images": [data_uri(picture())]}).status_code == 200
        assert server.get("/ready").status_code == 200

        # Fetching is imported with the first URL, HEIC with the first such picture.
        assert modules(server).isdisjoint(NEVER | TEXTS | {"requests", "pillow_heif"})
        assert libraries(server).isdisjoint(NEVER | TEXTS | {"pillow_heif"})
