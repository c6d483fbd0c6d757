"""Verifies the files of baked models: that their SHA-256 is the manifest's.

Deploying verifies them already, and the layers of a container image are addressed by their content. So a
serving process checks sizes at start, and verifies the bytes after its first reply, beside serving. To do so
before would read every byte of every file: tens of milliseconds of CPU time for a start, and more where the
disk is slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clip_embeddings.background import BackgroundThread
from clip_embeddings.engine.manifest import ModelError, verify_files
from clip_embeddings.logs import logger

if TYPE_CHECKING:
    from clip_embeddings.engine.model import Model


class Verification:
    """Verifies the towers of `models` that have been opened, once each, beside serving.

    A tower with a damaged file serves no longer: whoever asks for it is told.
    """

    def __init__(self, models: Mapping[str, Model], towers: tuple[str, ...]) -> None:
        self._left = [
            (model, name) for model in models.values() for name in towers if name in model.manifest.towers
        ]
        self._thread = BackgroundThread("verification", self._verify_opened)

    def start(self) -> None:
        """Begin, if a tower has been opened that is not verified yet. Repeated calls are cheap."""
        if any(model.tower(name).made for model, name in self._left):
            self._thread.start()

    def _verify_opened(self) -> None:
        for model, name in list(self._left):
            tower = model.tower(name)
            if not tower.made:
                continue
            try:
                verify_files(model.folder, model.manifest.towers[name].files)
            except ModelError as error:
                logger.error("The %s tower of %s serves no longer: %s", name, model.manifest.name, error)
                tower.fail(error)
            self._left.remove((model, name))
