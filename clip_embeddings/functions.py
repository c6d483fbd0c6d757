"""The functions of this package: what starts each, which towers it holds, which resources it needs.

The entrypoints, `deploy.sh` and its help, staging and the tests read this table. It imports the standard
library only, because deploying runs without installed packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TEXT = ("text",)
IMAGE = ("image",)
BOTH = ("text", "image")

# A resource: the bucket of jobs (JOBS_URL), the bucket of photos (BUCKET_URL), the index (INDEX_URL).
Need = Literal["jobs", "photos", "index"]


@dataclass(frozen=True)
class BucketEvent:
    """An event of a Cloud Storage bucket."""

    bucket: Literal["jobs", "photos"]
    # The last part of the event's type: google.cloud.storage.object.v1.{kind}.
    kind: Literal["finalized", "deleted"]
    # Further kinds that the function acts on, if a trigger that deploy.sh does not make sends them.
    further_kinds: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that the function acts on."""
        return (self.kind, *self.further_kinds)


# An HTTP request, an event of a bucket, or the execution of a Cloud Run job.
Trigger = Literal["http", "job"] | BucketEvent


@dataclass(frozen=True)
class Function:
    """One entrypoint, in `functions/{name}.py`."""

    name: str
    trigger: Trigger = "http"
    # The towers of the model that it holds.
    towers: tuple[str, ...] = ()
    # Whether the towers of its default model are opened while it starts, before a request needs them.
    preload: bool = False
    # Whether it serves a model that lacks one of its towers.
    allow_missing_towers: bool = False
    needs: tuple[Need, ...] = ()
    # The path whose handler also answers POST /; None if there is none.
    root: str | None = None
    # Whether "all" on the command line of deploy.sh includes it.
    included_in_all: bool = True
    # Path and options of curl for a first request. The files of options are in the repository.
    example: str = "/"

    @property
    def is_http(self) -> bool:
        """Whether HTTP requests start it."""
        return self.trigger == "http"

    @property
    def is_job(self) -> bool:
        """Whether it is a Cloud Run job: a module that runs and ends."""
        return self.trigger == "job"

    @property
    def serves_several_models(self) -> bool:
        """Whether MODELS applies to it. Functions that only write or search the index use a single model."""
        return "index" not in self.needs or "jobs" in self.needs

    @property
    def event(self) -> BucketEvent | None:
        """The event that starts it, if one does."""
        return self.trigger if isinstance(self.trigger, BucketEvent) else None


_MIXED_EXAMPLE = "/embed/mixed -H 'Content-Type: application/json' -d @model_cache/demo/example.json"

FUNCTIONS: tuple[Function, ...] = (
    Function(
        "embed_text",
        towers=TEXT,
        preload=True,
        root="/embed/text",
        example="/embed/text -d 'text=birthday cake'",
    ),
    Function(
        "embed_image",
        towers=IMAGE,
        preload=True,
        root="/embed/image",
        example="/embed/image -F file=@model_cache/demo/pictures/birthday-cake.png",
    ),
    Function("embed_mixed", towers=BOTH, preload=True, root="/embed/mixed", example=_MIXED_EXAMPLE),
    Function("jobs", towers=BOTH, allow_missing_towers=True, needs=("jobs",), example="/api/models"),
    Function(
        "run_job",
        trigger=BucketEvent("jobs", "finalized"),
        towers=BOTH,
        preload=True,
        allow_missing_towers=True,
        needs=("jobs",),
    ),
    Function(
        "search",
        towers=BOTH,
        preload=True,
        needs=("photos", "index"),
        root="/search",
        example="/search -H 'Content-Type: application/json' -d '{\"text\": \"birthday cake\"}'",
    ),
    Function(
        "on_upload",
        trigger=BucketEvent("photos", "finalized"),
        towers=IMAGE,
        preload=True,
        needs=("photos", "index"),
    ),
    Function(
        "on_delete",
        # In a bucket with object versioning, the live version of an object becomes noncurrent, with its
        # generation, where it would be deleted without: when the object is deleted or replaced.
        trigger=BucketEvent("photos", "deleted", further_kinds=("archived",)),
        needs=("photos", "index"),
    ),
    Function("backfill", trigger="job", towers=IMAGE, needs=("photos", "index")),
    Function("duplicates", trigger="job", needs=("photos", "index"), included_in_all=False),
    # Every route of the other functions in one process.
    Function(
        "gateway",
        towers=BOTH,
        allow_missing_towers=True,
        needs=("jobs", "photos", "index"),
        included_in_all=False,
        example=_MIXED_EXAMPLE,
    ),
)


def find_function(name: str) -> Function:
    """The function of that name. Raises KeyError if there is none."""
    for function in FUNCTIONS:
        if function.name == name:
            return function
    raise KeyError(name)
