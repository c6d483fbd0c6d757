"""The commands of deploy.sh: each makes a plan, which is printed with --dry-run and executed otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence

from clip_embeddings.functions import FUNCTIONS, Function, find_function
from deploy import gcloud
from deploy.bigquery import DEFAULT as BIGQUERY_FUNCTIONS
from deploy.bigquery import bigquery_plan
from deploy.deployment import APP_LABEL, Deployment, logs_command, service_name
from deploy.errors import DeployError, quote_for_message
from deploy.execution import execute, say
from deploy.options import BY_VARIABLE, CommandLine
from deploy.plan import deletion_plan, deployment_plan, stage_step
from deploy.rollout import REVISION_WITH_TAG
from deploy.spark import spark_plan, spark_stage_step
from deploy.steps import Lookup, Run, Step, printed, variable


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
        "bigquery": _bigquery,
        "spark": _spark,
        "status": _status,
        "logs": _logs,
        "delete": _delete,
    }
    if command not in commands:
        raise DeployError(f"there is no command {quote_for_message(command)}; see ./deploy.sh --help.")
    commands[command](options, arguments)


def _stage(options: CommandLine, arguments: list[str]) -> None:
    _perform(options, (stage_step(options, _find_functions(arguments, jobs=False)),))


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
    if "--plan" in arguments:
        # The others would have nothing to do, and cost a minute each.
        command = (*command, "--tasks=1")
    if arguments:
        command = (*command, f"--args={gcloud.join_values(arguments)}")
    _perform_in_project(deployment, (Run(command),))


def _bigquery(options: CommandLine, arguments: list[str]) -> None:
    deployment = _deployment(options, _find_functions(arguments or BIGQUERY_FUNCTIONS, jobs=False))
    if not (options.dry_run or shutil.which("bq")):
        raise DeployError("bq is not installed: run gcloud components install bq.")
    _perform_in_project(deployment, tuple(bigquery_plan(deployment)))


def _spark(options: CommandLine, arguments: list[str]) -> None:
    match arguments:
        case ["stage"]:
            _perform(options, (spark_stage_step(options),))
        case ["run", *rest] if rest:
            deployment = _deployment(options, ())
            _perform_in_project(deployment, spark_plan(deployment, rest))
        case _:
            raise DeployError("use spark stage or spark run -- --input ... --output ...; see --help.")


def _status(options: CommandLine, arguments: list[str]) -> None:
    deployment = _deployment(options, ())
    listing = (f"--region={deployment.region}", f"--filter=metadata.labels.app={APP_LABEL}")
    commands = (
        deployment.gcloud(
            *("run", "services", "list", *listing),
            "--format=table(metadata.name:label=FUNCTION,status.conditions[0].status:label=READY,"
            "status.url:label=URL,metadata.labels.deployed:label=DEPLOYED,"
            f"{REVISION_WITH_TAG}:label=CANDIDATE)",
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
    _perform_in_project(deployment, map(Run, commands))


def _logs(options: CommandLine, arguments: list[str]) -> None:
    function = _find_functions(arguments, jobs=False)[0]
    deployment = _deployment(options, (function,))
    _perform_in_project(deployment, (Run(logs_command(deployment, function)),))


def _delete(options: CommandLine, arguments: list[str]) -> None:
    functions = _find_functions(arguments, jobs=False)
    deployment = _deployment(options, functions)
    names = " ".join(function.name for function in functions)
    question = f"Delete {names} from {deployment.project} ({deployment.region}), with their triggers?"
    if not (options.dry_run or "--yes" in options.switches or gcloud.confirm(question)):
        raise DeployError("nothing was deleted.")
    _perform_in_project(deployment, deletion_plan(deployment))
    say("Buckets, the index and service accounts are still there; README.md says how to remove them.")


def _deploy_functions(options: CommandLine, functions: tuple[Function, ...]) -> None:
    deployment = _deployment(options, functions)
    if deployment.any(lambda function: function.is_http) and not (options.dry_run or shutil.which("curl")):
        raise DeployError("curl is not installed: it asks a new revision whether it is ready.")
    _perform_in_project(deployment, deployment_plan(deployment))


def _find_functions(names: Sequence[str], *, jobs: bool) -> tuple[Function, ...]:
    """The functions called `names`; "all" means every Cloud Run job with `jobs`, else every other function.

    Raises:
        DeployError: there is no function of that name, or no name.
    """
    functions: list[Function] = []
    for name in names:
        if name == "all":
            functions += (entry for entry in FUNCTIONS if entry.included_in_all and entry.is_job == jobs)
            continue
        try:
            functions.append(find_function(name))
        except KeyError:
            kind = "job" if jobs else "function"
            raise DeployError(
                f"there is no {kind} {quote_for_message(name)}; see ./deploy.sh --help."
            ) from None
    if not functions:
        raise DeployError('name a function, or "all"; see ./deploy.sh --help.')
    return tuple(dict.fromkeys(functions))


def _deployment(options: CommandLine, functions: tuple[Function, ...]) -> Deployment:
    """The deployment of `functions` in the project that --project names, else gcloud's configuration.

    A dry run does not call gcloud: the printed plan looks the project up.
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
    """Print the plan or execute it. It is complete before its first step: an error in it changes nothing."""
    if options.dry_run:
        for text in printed(plan):
            print(text)
    else:
        execute(plan)
