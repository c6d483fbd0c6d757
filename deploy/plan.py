"""The plans of deploy.sh: the steps that stage, deploy and delete functions, in their order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_embeddings.functions import Function
from deploy.artifact import make_artifact
from deploy.deployment import JOBS_FOLDER, LIFECYCLE_FILE, Deployment, resource_kind, service_name
from deploy.labels import WITH_LABELS
from deploy.options import BY_VARIABLE, CommandLine
from deploy.resources import api_steps, resource_steps
from deploy.services import address_steps, deploy_steps
from deploy.settings import read_settings
from deploy.staging import report, stage
from deploy.steps import Run, Step
from deploy.triggers import delete_trigger_steps, event_resource_steps, trigger_steps

# Seconds.
DAY = 86_400
# Options that change what is staged, for the command that a plan prints.
STAGE_OPTIONS = ("MODELS", "BUILD_DIR", "ALLOWED_BUCKETS", "INDEX", "PHOTO_LABELS")


def deployment_plan(deployment: Deployment) -> Iterator[Step]:
    """Stages and deploys functions, with everything that they need around them."""
    # Before anything is changed in the cloud: a function that cannot be staged ends the plan here.
    yield stage_step(deployment.options, deployment.functions)
    yield from api_steps(deployment)
    yield from resource_steps(deployment)
    if deployment.any(lambda function: function.event):
        yield from event_resource_steps(deployment)
    for function in deployment.functions:
        yield from deploy_steps(deployment, function)
        yield from trigger_steps(deployment, function)
    for function in deployment.functions:
        yield from address_steps(deployment, function)


def deletion_plan(deployment: Deployment) -> Iterator[Step]:
    """Deletes functions and their triggers. Buckets, the index and accounts stay."""
    for function in deployment.functions:
        yield from delete_trigger_steps(deployment, function)
        delete = ("run", resource_kind(function), "delete", service_name(function))
        command = deployment.gcloud(*delete, f"--region={deployment.region}", "--quiet")
        yield Run(command, failure_note="  (it was not deployed)")


def stage_step(options: CommandLine, functions: Sequence[Function]) -> Step:
    """Stages functions in this process. A printed plan has the command that does the same."""
    changed = (name for name in STAGE_OPTIONS if options[name] != BY_VARIABLE[name].default)
    settings = [f"{BY_VARIABLE[name].name}={options[name]}" for name in changed]
    settings += (f"--env={name}={options.settings[name]}" for name in WITH_LABELS if name in options.settings)
    names = (function.name for function in functions)
    command = ("./deploy.sh", f"--model={options['MODEL']}", *settings, "stage", *names)

    def stage_all() -> None:
        folder = Path(options["BUILD_DIR"])
        for function in functions:
            out = folder / function.name
            digest = stage(make_artifact(function, options), out)
            print(f"{report(out)}, content {digest}", flush=True)
        (folder / LIFECYCLE_FILE).write_text(json.dumps(_lifecycle_rule(options)) + "\n")

    return Run(command, action=stage_all)


def _lifecycle_rule(options: CommandLine) -> object:
    """The rule by which the bucket of jobs deletes old ones: whole days, and no earlier than JOBS_TTL."""
    days = int(read_settings(options.settings).jobs.ttl) // DAY + 1
    condition = {"age": days, "matchesPrefix": [f"{JOBS_FOLDER}/"]}
    return {"rule": [{"action": {"type": "Delete"}, "condition": condition}]}
