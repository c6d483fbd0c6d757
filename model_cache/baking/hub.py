"""Model hubs: is one in reach, and what to say when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_cache.baking.errors import BakeError, root_cause

# Long enough for a hub far away, short enough for a person who forgot the cable.
KNOCK_SECONDS = 3


def knock(repository: str, *filenames: str) -> None:
    """Fail at once where the hub is out of reach: huggingface_hub itself would try again for a minute.

    Nothing is asked where one of `filenames` has been downloaded before.
    """
    from huggingface_hub import get_session, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in filenames):
        return
    answer = get_session().head(address(repository, filenames[0]), timeout=KNOCK_SECONDS)
    if answer.status_code >= 500:
        answer.raise_for_status()


def download(what: str, repository: str, *filenames: str) -> Path:
    """The local path of the first of `filenames` that the repository has. Raises BakeError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with explained(what, repository, filenames[0]):
        knock(repository, *filenames)
        for filename in filenames[:-1]:
            try:
                return Path(hf_hub_download(repository, filename))
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(repository, filenames[-1]))


@contextmanager
def explained(what: str, repository: str, filename: str, url: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with a download into one sentence that helps."""
    try:
        yield
    except Exception as error:
        source = address(repository, filename) if repository else url or "an unknown place"
        raise BakeError(
            f"{what} could not be downloaded from {source}: {root_cause(error)}. "
            "Check the network (HF_ENDPOINT names the hub), or pass a local file with --checkpoint, which "
            "works offline."
        ) from error


def address(repository: str, filename: str) -> str:
    """Where the hub keeps a file."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}/resolve/main/{filename}"
