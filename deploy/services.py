"""One function or Cloud Run job: its settings, its flags, its deployment, its address."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from clip_embeddings.functions import Function
from deploy.databases import database_flags
from deploy.deployment import APP_LABEL, JOBS_FOLDER, PLANS_FOLDER, Deployment, resource_kind, service_name
from deploy.gcloud import join_values
from deploy.labels import WITH_LABELS
from deploy.options import EVENT_TIMEOUT, JOB_TIMEOUT, PUBLIC, REQUEST_TIMEOUT
from deploy.rollout import LABEL_THAT_SERVES, SERVING, rollout_steps
from deploy.sizing import ModelFacts
from deploy.staging import HASH_SUFFIX
from deploy.steps import IfChanged, Lookup, Run, Say, Step, variable


def deploy_steps(deployment: Deployment, function: Function) -> Iterator[Step]:
    """Deploys a function from its staged folder, unless exactly this is deployed, and serves, already."""
    flags = _flags(deployment, function)
    # The label `deployed` identifies what is deployed: a hash of the staged files, and one of the flags.
    folder = f"{deployment.options['BUILD_DIR']}/{function.name}"
    yield Lookup("CONTENT", ("cat", f"{folder}{HASH_SUFFIX}"))
    deployed = f"{variable('CONTENT')}-{zlib.crc32(chr(10).join(flags).encode())}"
    group = ("run", "jobs") if function.is_job else ("run",)
    service = service_name(function)
    command = deployment.gcloud(
        *(*group, "deploy", service, f"--source={folder}", *flags),
        *(f"--labels=app={APP_LABEL},deployed={deployed}", "--quiet"),
    )
    steps: tuple[Step, ...] = (Run(command),)
    value, expected = "value(metadata.labels.deployed)", deployed
    if function.is_http:
        steps = tuple(rollout_steps(deployment, function, command))
        value, expected = LABEL_THAT_SERVES, f"{deployed} {SERVING}"
    if "--force" in deployment.options.switches:
        yield from steps
        return
    describe = ("run", resource_kind(function), "describe", service, f"--region={deployment.region}")
    yield IfChanged(
        deployment.gcloud(*describe, f"--format={value}"),
        expected,
        steps,
        f"{function.name} is unchanged since it was last deployed ({deployed}); --force deploys it anyway.",
    )


def address_steps(deployment: Deployment, function: Function) -> Iterator[Step]:
    """Prints a function's URL and a first request, if it has one."""
    if not function.is_http:
        return
    describe = ("run", "services", "describe", service_name(function), f"--region={deployment.region}")
    yield Lookup("URL", deployment.gcloud(*describe, "--format=value(status.url)"))
    url, header = variable("URL"), ""
    if PUBLIC not in deployment.options.switches:
        header = '-H "Authorization: Bearer $(gcloud auth print-identity-token)" '
    yield Say(f"{function.name}: {url}\n  curl -s {header}{url}{function.example}")


def _settings(deployment: Deployment, function: Function, facts: ModelFacts) -> str:
    """The settings of a function, as the value of --set-env-vars."""
    options = deployment.options
    first, *others = facts.names
    settings = {"MODEL": first}
    if others:
        settings["MODELS"] = ",".join(others)
    settings["MEMORY_LIMIT"] = _memory(deployment, facts)
    settings |= options.settings
    for name in WITH_LABELS:
        settings.pop(name, None)
    if not function.serves_several_models:
        settings.pop("PROTOCOL_MODELS", None)
    if "jobs" in function.needs:
        settings["JOBS_URL"] = f"gs://{deployment.bucket('jobs')}/{JOBS_FOLDER}"
    if "photos" in function.needs:
        settings["BUCKET_URL"] = f"gs://{deployment.bucket('photos')}"
    if deployment.makes_plans(function):
        settings["PLAN_URL"] = f"gs://{deployment.bucket('jobs')}/{PLANS_FOLDER}"
    if "index" in function.needs and (url := deployment.index_url()):
        settings["INDEX_URL"] = url
    if options["ALLOWED_BUCKETS"] and "image" in function.towers:
        settings["ALLOWED_BUCKETS"] = options["ALLOWED_BUCKETS"]
    return join_values([f"{name}={value}" for name, value in settings.items()])


def _memory(deployment: Deployment, facts: ModelFacts) -> str:
    return deployment.options["MEMORY"] or facts.memory


def _flags(deployment: Deployment, function: Function) -> list[str]:
    options, facts = deployment.options, deployment.facts(function)
    flags = [
        f"--region={deployment.region}",
        f"--memory={_memory(deployment, facts)}",
        f"--cpu={options['CPU']}",
        f"--service-account={deployment.service_account}",
        f"--set-env-vars={_settings(deployment, function, facts)}",
    ]
    flags += database_flags(options, function)
    if function.is_job:
        timeout = options["TIMEOUT"] or JOB_TIMEOUT
        return [*flags, f"--tasks={options['TASKS']}", "--max-retries=3", f"--task-timeout={timeout}"]
    flags += (
        f"--function={function.name}",
        f"--base-image={options['BASE_IMAGE']}",
        f"--concurrency={options['CONCURRENCY']}",
        "--cpu-boost",
        "--execution-environment=gen2",
        f"--min-instances={options['MIN_INSTANCES']}",
        f"--max-instances={options['MAX_INSTANCES']}",
        "--build-service-account="
        f"projects/{deployment.project}/serviceAccounts/{deployment.build_service_account}",
    )
    if function.event:
        return [*flags, f"--timeout={options['TIMEOUT'] or EVENT_TIMEOUT}", "--no-allow-unauthenticated"]
    return [
        *flags,
        f"--timeout={options['TIMEOUT'] or REQUEST_TIMEOUT}",
        # No probe of its own, which also removes an earlier one: the platform's default waits for the port to
        # open, and the first request is answered as soon as it can be. An HTTP probe is asked once a second.
        "--startup-probe=",
        PUBLIC if PUBLIC in options.switches else "--no-allow-unauthenticated",
    ]
