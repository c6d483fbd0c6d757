"""The commands of deploy.sh: each makes a plan, which is printed with --dry-run and executed otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clip_embeddings.functions import FUNCTIONS, Function, find_function
from deploy import gcloud
from deploy.artifact import make_artifact
from deploy.deployment import LIFECYCLE_FILE, Deployment, resource_kind, service_name
from deploy.errors import DeployError, quote_for_message
from deploy.execution import execute, say
from deploy.options import BY_VARIABLE, CommandLine
from deploy.plan import Lookup, Run, Step, printed, variable
from deploy.resources import api_steps, resource_steps
from deploy.services import address_steps, deploy_steps
from deploy.settings import read_settings
from deploy.staging import report, stage
from deploy.triggers import delete_trigger_steps, event_resource_steps, trigger_steps

DAY = 86_400
# Options that change what is staged, for the command that a plan prints.
STAGE_OPTIONS = ("MODELS", "BUILD_DIR", "ALLOWED_BUCKETS")


def run_command(options: CommandLine) -> None:
    """Do what the command line says.

    Raises:
        DeployError, CommandError, ModelError: it cannot be done.
    """
    command, *arguments = options.positional
    commands: dict[str, Callable[[CommandLine, list[str]], None]] = {
        "stage": _stage,
        "deploy": _deploy,
        "jobs": _jobs,
        "status": _status,
        "logs": _logs,
        "delete": _delete,
    }
    if command not in commands:
        raise DeployError(f"there is no command {quote_for_message(command)}; see ./deploy.sh --help.")
    commands[command](options, arguments)


def _stage(options: CommandLine, arguments: list[str]) -> None:
    _perform(options, (_stage_step(options, _find_functions(arguments, jobs=False)),))


def _deploy(options: CommandLine, arguments: list[str]) -> None:
    _deploy_functions(options, _find_functions(arguments, jobs=False))


def _jobs(options: CommandLine, arguments: list[str]) -> None:
    match arguments:
        case ["deploy", *names]:
            functions = _find_functions(names or ["all"], jobs=True)
            _deploy_functions(options, functions)
            if not options.dry_run:
                say(f"Run it with ./deploy.sh jobs run {functions[0].name}.")
        case ["run"]:
            raise DeployError("name the job to run: ./deploy.sh jobs run backfill.")
        case ["run", name, *rest]:
            (job, *_) = _find_functions([name], jobs=True)
            if not job.is_job:
                raise DeployError(f"{name} is no Cloud Run job but a function.")
            _run_job(options, job, rest)
        case _:
            raise DeployError("use jobs deploy or jobs run; see ./deploy.sh --help.")


def _run_job(options: CommandLine, job: Function, arguments: Sequence[str]) -> None:
    deployment = _deployment(options, (job,))
    region = f"--region={deployment.region}"
    command = deployment.gcloud("run", "jobs", "execute", service_name(job), region, "--wait")
    if arguments:
        command = (*command, f"--args={gcloud.join_values(arguments)}")
    _perform_in_project(deployment, (Run(command),))


def _status(options: CommandLine, arguments: list[str]) -> None:
    deployment = _deployment(options, ())
    listing = (f"--region={deployment.region}", "--filter=metadata.labels.app=clip-functions")
    plan = (
        deployment.gcloud(
            *("run", "services", "list", *listing),
            "--format=table(metadata.name:label=FUNCTION,status.conditions[0].status:label=READY,"
            "status.url:label=URL,metadata.labels.deployed:label=DEPLOYED)",
        ),
        deployment.gcloud(
            *("run", "jobs", "list", *listing),
            "--format=table(metadata.name:label=JOB,status.latestCreatedExecution.name:label=LAST_RUN)",
        ),
        deployment.gcloud(
            *("eventarc", "triggers", "list", "--location=-"),
            "--format=table(name.basename():label=TRIGGER,name.segment(3):label=LOCATION,"
            "destination.cloudRun.service:label=FUNCTION,"
            "eventFilters.map().extract(value).flatten():label=EVENTS)",
        ),
    )
    _perform_in_project(deployment, map(Run, plan))


def _logs(options: CommandLine, arguments: list[str]) -> None:
    function = _find_functions(arguments, jobs=False)[0]
    deployment = _deployment(options, (function,))
    read = ("run", resource_kind(function), "logs", "read", service_name(function))
    command = deployment.gcloud(*read, f"--region={deployment.region}", "--limit=100")
    _perform_in_project(deployment, (Run(command),))


def _delete(options: CommandLine, arguments: list[str]) -> None:
    functions = _find_functions(arguments, jobs=False)
    deployment = _deployment(options, functions)
    names = " ".join(function.name for function in functions)
    question = f"Delete {names} from {deployment.project} ({deployment.region}), with their triggers?"
    agreed = options.dry_run or "--yes" in options.switches or gcloud.confirm(question)
    if not agreed:
        raise DeployError("nothing was deleted.")
    _perform_in_project(deployment, _delete_steps(deployment))
    say("Buckets, the index and service accounts are still there; README.md says how to remove them.")


def _delete_steps(deployment: Deployment) -> Iterator[Step]:
    for function in deployment.functions:
        yield from delete_trigger_steps(deployment, function)
        delete = ("run", resource_kind(function), "delete", service_name(function))
        command = deployment.gcloud(*delete, f"--region={deployment.region}", "--quiet")
        yield Run(command, failure_note="  (it was not deployed)")


def _deploy_functions(options: CommandLine, functions: tuple[Function, ...]) -> None:
    deployment = _deployment(options, functions)
    _perform_in_project(deployment, _deploy_plan(deployment))


def _deploy_plan(deployment: Deployment) -> Iterator[Step]:
    # Before anything is changed in the cloud: whatever cannot be staged ends the plan here.
    yield _stage_step(deployment.options, deployment.functions)
    yield from api_steps(deployment)
    yield from resource_steps(deployment)
    if deployment.any(lambda function: function.event):
        yield from event_resource_steps(deployment)
    for function in deployment.functions:
        yield from deploy_steps(deployment, function)
        yield from trigger_steps(deployment, function)
    for function in deployment.functions:
        yield from address_steps(deployment, function)


def _stage_step(options: CommandLine, functions: tuple[Function, ...]) -> Step:
    """Stages functions in this process; a plan prints the command that does."""
    chosen = (name for name in STAGE_OPTIONS if options[name] != BY_VARIABLE[name].default)
    settings = (f"{BY_VARIABLE[name].name}={options[name]}" for name in chosen)
    words = (f"--model={options['MODEL']}", *settings, "stage", *(function.name for function in functions))

    def stage_all() -> None:
        folder = Path(options["BUILD_DIR"])
        for function in functions:
            out = folder / function.name
            digest = stage(make_artifact(function, options), out)
            print(f"{report(out)}, content {digest}", flush=True)
        # The bucket deletes old jobs. A rule counts whole days, and must not be quicker than JOBS_TTL.
        days = int(read_settings(options.settings).jobs.ttl) // DAY + 1
        condition = {"age": days, "matchesPrefix": ["jobs/"]}
        rule = {"rule": [{"action": {"type": "Delete"}, "condition": condition}]}
        (folder / LIFECYCLE_FILE).write_text(json.dumps(rule) + "\n")

    return Run(("./deploy.sh", *words), action=stage_all)


def _find_functions(names: Sequence[str], *, jobs: bool) -> tuple[Function, ...]:
    """The functions that arguments name; "all" means the Cloud Run jobs if `jobs`, else the others."""
    functions: list[Function] = []
    for name in names:
        if name == "all":
            functions += (entry for entry in FUNCTIONS if entry.included_in_all and entry.is_job == jobs)
            continue
        try:
            functions.append(find_function(name))
        except KeyError:
            raise DeployError(
                f"there is no function {quote_for_message(name)}; see ./deploy.sh --help."
            ) from None
    if not functions:
        raise DeployError('name a function, or "all"; see ./deploy.sh --help.')
    return tuple(dict.fromkeys(functions))


def _deployment(options: CommandLine, functions: tuple[Function, ...]) -> Deployment:
    """Functions in the project of --project, else of gcloud's configuration.

    A dry run needs no gcloud: its plan looks the project up.
    """
    project = options["PROJECT"]
    if options.dry_run:
        project = project or variable("PROJECT")
    else:
        gcloud.check_ready()
        project = project or BY_VARIABLE["PROJECT"].check(gcloud.chosen_project())
    return Deployment(options, project, functions)


def _perform_in_project(deployment: Deployment, plan: Iterator[Step] | Sequence[Step]) -> None:
    project = (Lookup("PROJECT", gcloud.GET_PROJECT),) if deployment.project == variable("PROJECT") else ()
    _perform(deployment.options, (*project, *plan))


def _perform(options: CommandLine, plan: Sequence[Step]) -> None:
    """Print the plan or execute it. It is complete before its first step: errors in it come first."""
    if options.dry_run:
        for text in printed(plan):
            print(text)
    else:
        execute(plan)
