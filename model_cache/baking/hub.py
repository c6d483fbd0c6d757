"""Downloads from a model hub, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_cache.baking.errors import BakeError, root_cause

# Timeout of the reachability check, in seconds.
REACHABLE_TIMEOUT = 3


def check_reachable(repository: str, *filenames: str) -> None:
    """Raise at once if the hub cannot be reached: huggingface_hub itself retries for about a minute.

    Makes no request if one of `filenames` is in the local cache already.
    """
    from huggingface_hub import get_session, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in filenames):
        return
    response = get_session().head(file_url(repository, filenames[0]), timeout=REACHABLE_TIMEOUT)
    if response.status_code >= 500:
        response.raise_for_status()


def download(description: str, repository: str, *filenames: str) -> Path:
    """Download the first of `filenames` that the repository has, and return its local path.

    `description` opens the error sentence.

    Raises:
        BakeError: no network, or the repository has none of the files.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with translate_errors(description, repository, filenames[0]):
        check_reachable(repository, *filenames)
        for filename in filenames[:-1]:
            try:
                return Path(hf_hub_download(repository, filename))
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(repository, filenames[-1]))


@contextmanager
def translate_errors(description: str, repository: str, filename: str, url: str = "") -> Iterator[None]:
    """Turn any exception of a download into a BakeError that names the file's URL and how to bake offline.

    Args:
        description: opens the sentence.
        url: the file's URL if it is in no repository of the hub, that is, if `repository` is empty.
    """
    try:
        yield
    except Exception as error:
        source = file_url(repository, filename) if repository else url or "an unknown place"
        raise BakeError(
            f"{description} could not be downloaded from {source}: {root_cause(error)}. "
            "Check the network (HF_ENDPOINT names the hub), or pass a local file with --checkpoint, which "
            "works offline."
        ) from error


def file_url(repository: str, filename: str) -> str:
    """The URL of a file on the hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}/resolve/main/{filename}"
