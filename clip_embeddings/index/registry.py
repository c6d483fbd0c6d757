"""The kinds of index that INDEX_URL may name, as data. Adding one takes an entry here and a module beside it.

It imports the standard library only, because settings and deploying read it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# https://cloud.google.com/resource-manager/docs/creating-managing-projects
PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
# Firestore allows more characters; these need no quoting anywhere.
COLLECTION = r"[A-Za-z][A-Za-z0-9_-]{0,127}"


@dataclass(frozen=True)
class Package:
    """A package that not every function installs."""

    # Its module; the package's name has hyphens instead of dots.
    module: str
    # The requirements file that installs it, relative to the repository.
    requirements: str


@dataclass(frozen=True)
class Provision:
    """One resource that must exist before the functions use an index, as arguments of gcloud.

    Placeholders in both commands: {region}, {dimensions}, and the groups of the backend's `url_pattern`.
    """

    create: tuple[str, ...]
    # Prints something if the resource exists. None: creating an existing one again changes nothing.
    check: tuple[str, ...] | None = None


@dataclass(frozen=True)
class IndexBackend:
    """One kind of index."""

    # The scheme of its URLs.
    scheme: str
    # Regular expression that the whole INDEX_URL matches. Its groups are placeholders.
    url_pattern: str
    # The form of these URLs, for error messages.
    url_form: str
    # Module with `open_index(url, tombstone_ttl) -> Index`.
    module: str
    # The INDEX_URL, with placeholders, of a deployment that sets none. None: used only if INDEX_URL names it.
    deployed_url: str | None = None
    # None: every function installs what this backend needs.
    package: Package | None = None
    # Google APIs, roles in the project and resources that a deployment needs.
    apis: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    provisions: tuple[Provision, ...] = ()


FIRESTORE = Package("google.cloud.firestore", "requirements/firestore.txt")
# It is installed with psycopg, as one of its extras.
POSTGRES = Package("psycopg_pool", "requirements/postgres.txt")


def _vector_index(*filters: str) -> Provision:
    """A vector index for queries that filter by the fields `filters`."""
    # Firestore gives indexes random names and adds fields to some, so an index is identified by which of its
    # fields are filters.
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
        package=FIRESTORE,
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
            # Every search filters by space, some also by a prefix of the name: each combination of filters
            # needs a vector index of its own.
            _vector_index("space"),
            _vector_index("space", "name"),
            # Firestore deletes tombstones of removed photos some time after they have expired.
            Provision(
                create=(
                    *("firestore", "fields", "ttls", "update", "expires"),
                    *("--collection-group={collection}", "--enable-ttl", "--async"),
                )
            ),
        ),
    ),
    # clip_embeddings.postgres_url checks the parts of these URLs. What a deployment needs depends on the
    # host: see deploy/databases.py.
    IndexBackend(
        scheme="postgresql",
        url_pattern=r"postgresql://[^#]*",
        url_form="postgresql://user@host/database?table=name",
        module="clip_embeddings.index.postgres",
        package=POSTGRES,
    ),
)


def find_backend(url: str) -> IndexBackend:
    """The backend of an INDEX_URL. Raises ValueError, whose message lists the accepted forms."""
    for backend in BACKENDS:
        if re.fullmatch(backend.url_pattern, url):
            return backend
    raise ValueError(f"use {' or '.join(backend.url_form for backend in BACKENDS)}")


def deployed_backend() -> IndexBackend:
    """The backend of a deployment that sets no INDEX_URL."""
    return next(backend for backend in BACKENDS if backend.deployed_url)
