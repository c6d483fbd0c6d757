"""What Cloud Run makes of a service that is created or replaced: revisions, traffic, conditions.

The rules are those of https://cloud.google.com/run/docs/reference/rest/v1/namespaces.services.
"""

from __future__ import annotations

import copy
from typing import Any


def deployed(body: Any, before: Any | None, tagged: str, *, starts: bool = True, ready: int = 200) -> Any:
    """The service `body` with its status.

    Args:
        body: the service as it is sent.
        before: the service that it replaces, None for a new one.
        tagged: the address below which a revision with a tag has its own, `tagged`/TAG---NAME.
        starts: whether a new revision starts.
        ready: the status with which a new revision answers /ready.
    """
    service = copy.deepcopy(body)
    name = service["metadata"]["name"]
    old = before or {"metadata": {"generation": 0}, "spec": {}, "status": {}}
    status = copy.deepcopy(old["status"])
    generation = old["metadata"]["generation"] + 1
    service["metadata"]["generation"] = status["observedGeneration"] = generation
    template = service["spec"]["template"]
    status.setdefault("revisions", {})
    if template != old["spec"].get("template"):
        revision = template["metadata"].get("name") or f"{name}-{generation:05}"
        status["revisions"][revision] = ready
        status["latestCreatedRevisionName"] = revision
        if starts:
            status["latestReadyRevisionName"] = revision
    created, latest = status["latestCreatedRevisionName"], status.get("latestReadyRevisionName")
    working = created == latest
    conditions = ("Ready", "ConfigurationsReady", "RoutesReady")
    status["conditions"] = [
        {"type": kind, "status": str(working), "message": "" if working else "the container did not start"}
        for kind in conditions
    ]
    status["url"] = f"https://{name}.run.test"
    traffic = service["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
    assert sum(target.get("percent", 0) for target in traffic) == 100, traffic
    # Traffic moves once everything that it names works.
    if working:
        status["traffic"] = [
            _target(target, latest, f"{tagged}/{target.get('tag')}---{name}") for target in traffic
        ]
    return {**service, "status": status}


def serving(service: Any) -> str:
    """The revision that has all traffic."""
    (revision,) = (target["revisionName"] for target in service["status"]["traffic"] if target.get("percent"))
    return str(revision)


def readiness(service: Any, tag: str) -> int:
    """The status with which the revision with a tag answers /ready."""
    for target in service["status"]["traffic"]:
        if target.get("tag") == tag:
            return int(service["status"]["revisions"][target["revisionName"]])
    return 404


def _target(target: Any, latest: str, url: str) -> Any:
    revision = latest if target.get("latestRevision") else target["revisionName"]
    return {**target, "revisionName": revision, **({"url": url} if "tag" in target else {})}
