"""The kinds of index that INDEX_URL may name, as data. Adding one takes an entry here and a module beside it.

It needs the standard library only, because settings and deploying read it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# https://cloud.google.com/resource-manager/docs/creating-managing-projects
PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
# Firestore allows more characters; these need no quoting anywhere.
COLLECTION = r"[A-Za-z][A-Za-z0-9_-]{0,127}"


@dataclass(frozen=True)
class Provision:
    """One resource that must exist before the functions use an index, as arguments of gcloud.

    Placeholders in both commands: {region}, {dimensions}, and the groups of the backend's `url_pattern`.
    """

    create: tuple[str, ...]
    # Prints something if the resource exists already. None: creating it again changes nothing.
    check: tuple[str, ...] | None = None


@dataclass(frozen=True)
class IndexBackend:
    """One kind of index."""

    # Of its URLs.
    scheme: str
    # Regular expression that the whole INDEX_URL matches. Its groups are placeholders.
    url_pattern: str
    # How error messages write such a URL.
    url_form: str
    # Module with `open_index(url, tombstone_ttl) -> Index`.
    module: str
    # The URL in a deployment that names none, with placeholders. None: only INDEX_URL chooses this backend.
    deployed_url: str | None = None
    # Python module that must be importable, beside what every function installs.
    package: str | None = None
    # Requirements file that brings it, relative to the repository.
    requirements: str | None = None
    # Google APIs, roles in the project and resources that a deployment needs.
    apis: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    provisions: tuple[Provision, ...] = ()


def _vector_index(*filters: str) -> Provision:
    """A vector index for queries that filter by the fields `filters`."""
    # Names of indexes are random, and Firestore adds fields to some: the filtered fields identify an index.
    conditions = (
        f"{'' if field in filters else 'NOT '}fields.fieldPath={field}" for field in ("space", "name")
    )
    return Provision(
        check=(
            *("firestore", "indexes", "composite", "list"),
            "--filter=name~/collectionGroups/{collection}/ AND fields.vectorConfig.dimension={dimensions}"
            + "".join(f" AND {condition}" for condition in conditions),
            "--format=value(name)",
        ),
        create=(
            *("firestore", "indexes", "composite", "create"),
            *("--collection-group={collection}", "--query-scope=collection"),
            *(f"--field-config=field-path={field},order=ascending" for field in filters),
            '--field-config=field-path=vector,vector-config={{"dimension":"{dimensions}","flat":"{{}}"}}',
            "--async",
        ),
    )


BACKENDS: tuple[IndexBackend, ...] = (
    IndexBackend(
        scheme="sqlite",
        url_pattern=r"sqlite:///[^?#]*[^/?#]",
        url_form="sqlite:///folder/file",
        module="clip_embeddings.index.sqlite",
    ),
    IndexBackend(
        scheme="firestore",
        url_pattern=rf"firestore://(?P<project>{PROJECT})/(?P<collection>{COLLECTION})",
        url_form="firestore://project/collection",
        deployed_url="firestore://{project}/{collection}",
        module="clip_embeddings.index.firestore",
        package="google.cloud.firestore",
        requirements="requirements/firestore.txt",
        apis=("firestore",),
        roles=("roles/datastore.user",),
        provisions=(
            Provision(
                check=("firestore", "databases", "describe", "--format=value(name)"),
                create=(
                    *("firestore", "databases", "create"),
                    *("--location={region}", "--type=firestore-native"),
                ),
            ),
            # Searches stay inside one space, some below a name prefix: filters are part of a vector index.
            _vector_index("space"),
            _vector_index("space", "name"),
            # Tombstones of removed photos expire by themselves.
            Provision(
                create=(
                    *("firestore", "fields", "ttls", "update", "expires"),
                    *("--collection-group={collection}", "--enable-ttl", "--async"),
                )
            ),
        ),
    ),
)


def find_backend(url: str) -> IndexBackend:
    """The backend of an INDEX_URL. Raises ValueError, which says what URLs may look like."""
    for backend in BACKENDS:
        if re.fullmatch(backend.url_pattern, url):
            return backend
    raise ValueError(f"use {' or '.join(backend.url_form for backend in BACKENDS)}")


def deployed_backend() -> IndexBackend:
    """The backend of a deployment that sets no INDEX_URL."""
    return next(backend for backend in BACKENDS if backend.deployed_url)
