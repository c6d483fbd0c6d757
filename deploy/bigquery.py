"""The plan that lets BigQuery call deployed functions: connection, roles, data set, SQL functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clip_embeddings.functions import Function
from deploy.bigquery_sql import Mode, Names, definitions, queries
from deploy.deployment import Deployment, service_name
from deploy.errors import DeployError
from deploy.resources import enable_steps, grant_bucket_step
from deploy.steps import Command, Lookup, Require, Run, Step, Unless, variable

APIS = ("run", "storage", "bigquery", "bigqueryconnection")
CONNECTION = "clip"
MODES: tuple[Mode, ...] = ("text", "image")
# Functions that speak BigQuery's protocol, and those that are used if none is named.
SERVING = ("embed_text", "embed_image", "embed_mixed", "gateway")
DEFAULT = ("embed_text", "embed_image")
# The account of a connection, such as bqcx-123-a1b2@gcp-sa-bigquery-condel.iam.gserviceaccount.com.
ACCOUNT = r"[a-z0-9-]+@gcp-sa-bigquery[a-z0-9.-]+"

KEY_REFUSED = "BigQuery can only send an identity token, and no API key: {} without --api-key-secret."


def bigquery_plan(deployment: Deployment) -> Iterator[Step]:
    """Lets BigQuery embed with the functions of `deployment`. It may be repeated.

    Raises:
        DeployError: the functions lack a tower, or a key is asked of callers.
    """
    if deployment.options["API_KEY_SECRET"]:
        raise DeployError(KEY_REFUSED.format("run this"))
    chosen = {mode: _function_for(deployment, mode) for mode in MODES}
    location = deployment.options["DATASET_LOCATION"].lower() or deployment.region
    names = Names(deployment.project, deployment.options["DATASET"], location, CONNECTION)
    bucket = deployment.bucket("photos")
    yield from enable_steps(deployment, APIS)
    endpoints: dict[Mode, str] = {}
    for mode, function in chosen.items():
        name = f"{mode.upper()}_URL"
        yield Lookup(
            name,
            _describe(deployment, function, "status.url"),
            failure=f"{function.name} is not deployed: run {_deploy_command(bucket, chosen)}.",
        )
        endpoints[mode] = f"{variable(name)}/bigquery"
    yield from _checks(deployment, chosen, bucket)
    yield from _connection_steps(deployment, names)
    account = variable("CONNECTION_ACCOUNT")
    for function in dict.fromkeys(chosen.values()):
        yield _grant_invoker(deployment, function, account)
    # The connection lists the objects, the function reads them.
    yield grant_bucket_step(deployment, bucket, "roles/storage.objectViewer", account)
    yield grant_bucket_step(deployment, bucket, "roles/storage.objectViewer")
    script = definitions(names, endpoints, bucket)
    # A new account, and what it may do, are known everywhere only after a while.
    yield Run(_bq(names, "query", "--nouse_legacy_sql", script), retry=True)
    yield _show(names)


def _function_for(deployment: Deployment, mode: Mode) -> Function:
    """The first of the deployment's functions that embeds texts or photos. Raises DeployError without one."""
    for function in deployment.functions:
        if function.name not in SERVING:
            raise DeployError(f"BigQuery cannot call {function.name}: name some of {', '.join(SERVING)}.")
        if mode in function.towers:
            return function
    raise DeployError(f"none of these functions has a tower for the mode {mode}: name embed_{mode} as well.")


def _describe(deployment: Deployment, function: Function, value: str) -> Command:
    """Prints a value of a deployed function."""
    describe = ("run", "services", "describe", service_name(function), f"--region={deployment.region}")
    return deployment.gcloud(*describe, f"--format=value({value})")


def _setting(condition: str, field: str) -> str:
    """The value for `_describe` that prints a field of the environment variable that meets a condition."""
    return f"spec.template.spec.containers[0].env.filter('{condition}').extract({field}).flatten()"


def _checks(deployment: Deployment, chosen: Mapping[Mode, Function], bucket: str) -> Iterator[Step]:
    """Ends the plan if functions would refuse BigQuery, or give vectors that do not belong together."""
    command = _deploy_command(bucket, chosen)
    for function in dict.fromkeys(chosen.values()):
        yield Require(
            _describe(deployment, function, _setting("name=API_KEY", "name")),
            KEY_REFUSED.format(f"deploy {function.name}"),
            nothing=True,
        )
    yield Require(
        deployment.gcloud("storage", "buckets", "describe", f"gs://{bucket}", "--format=value(location)"),
        f"there is no bucket gs://{bucket}: name the one with the photos with --photos-bucket.",
    )
    text, image = chosen["text"], chosen["image"]
    # A name may have dots.
    allowed = f'name=ALLOWED_BUCKETS AND value~"(^|,){bucket.replace(".", "[.]")}(,|$)"'
    yield Require(
        _describe(deployment, image, _setting(allowed, "name")),
        f"{image.name} may not read gs://{bucket}: run {command}.",
    )
    if text != image:
        yield Lookup("MODEL", _describe(deployment, text, _setting("name=MODEL", "value")))
        yield Require(
            _describe(deployment, image, _setting(f"name=MODEL AND value={variable('MODEL')}", "name")),
            f"{text.name} and {image.name} have different models: run {command}.",
        )


def _deploy_command(bucket: str, chosen: Mapping[Mode, Function]) -> str:
    names = " ".join(dict.fromkeys(function.name for function in chosen.values()))
    return f"./deploy.sh --allowed-buckets {bucket} deploy {names}"


def _connection_steps(deployment: Deployment, names: Names) -> Iterator[Step]:
    """Makes the connection unless it exists, and looks its account up."""
    # bq prints its errors on standard output: only what looks like an account counts.
    show = _bq(names, "show", "--connection", "--format=json", names.connection)
    create = _bq(names, "mk", "--connection", "--connection_type=CLOUD_RESOURCE", names.connection)
    yield Unless(show, create, pattern=ACCOUNT)
    failure = f"the connection {names.connection} in {names.location} cannot be read."
    yield Lookup("CONNECTION_ACCOUNT", show, failure=failure, pattern=ACCOUNT)


def _bq(names: Names, *arguments: str) -> Command:
    return ("bq", f"--project_id={names.project}", f"--location={names.location}", *arguments)


def _grant_invoker(deployment: Deployment, function: Function, account: str) -> Step:
    return Run(
        deployment.gcloud(
            *("run", "services", "add-iam-policy-binding", service_name(function)),
            *(f"--region={deployment.region}", f"--member=serviceAccount:{account}"),
            *("--role=roles/run.invoker", "--format=none"),
        ),
        retry=True,
    )


def _show(names: Names) -> Step:
    """Prints the queries that a person runs next. Nothing runs them, because embedding costs money."""
    text = "\n\n".join(f"-- {title}\n{query}" for title, query in queries(names).items())
    return Run(("printf", r"%s\n", text), action=lambda: print(f"\n{text}", flush=True))
