"""The resources that functions need: APIs, accounts, roles, buckets, the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.artifact import chosen_backend
from deploy.databases import cloud_sql_instance, index_secrets
from deploy.deployment import JOBS_FOLDER, Deployment
from deploy.errors import DeployError
from deploy.execution import output, run, say
from deploy.gcloud import confirm
from deploy.steps import Lookup, Run, Step, Unless, line, variable

APIS = ("run", "cloudbuild", "artifactregistry", "cloudresourcemanager", "iam", "storage")


def api_steps(deployment: Deployment) -> Iterator[Step]:
    """Enables the APIs that the functions need; see `enable_steps`."""
    apis = [*APIS]
    if deployment.any(lambda function: function.event):
        apis += ("eventarc", "pubsub")
    if deployment.any_needs("index"):
        apis += chosen_backend(deployment.options).apis
        if cloud_sql_instance(deployment.options):
            apis.append("sqladmin")
    if _secrets(deployment):
        apis.append("secretmanager")
    yield from enable_steps(deployment, apis)


def enable_steps(deployment: Deployment, apis: Sequence[str]) -> Iterator[Step]:
    """Enables APIs. When executed, it enables only those that are missing, after confirmation."""
    command = deployment.gcloud("services", "enable", *(f"{api}.googleapis.com" for api in apis))

    def enable_missing() -> None:
        enabled = output(deployment.gcloud("services", "list", "--enabled", "--format=value(config.name)"))
        if enabled is None:
            raise DeployError(
                f"the project {deployment.project} cannot be read: check its name, and your roles in it."
            )
        missing = [api for api in apis if f"{api}.googleapis.com" not in enabled.splitlines()]
        if not missing:
            return
        names = " ".join(missing)
        say(f"These APIs are not enabled in {deployment.project}: {names}. This enables them:")
        say(f"  {line(command)}")
        if "--yes" not in deployment.options.switches and not confirm("Run it now?"):
            raise DeployError("nothing was deployed; run the command above, then deploy again.")
        run(command)

    yield Run(command, action=enable_missing)


def resource_steps(deployment: Deployment) -> Iterator[Step]:
    """Makes the resources that are missing, and grants the roles."""
    options = deployment.options
    yield from account_steps(deployment, "SERVICE_ACCOUNT", deployment.service_account, "CLIP functions")
    yield from account_steps(
        deployment, "BUILD_SERVICE_ACCOUNT", deployment.build_service_account, "CLIP builds"
    )
    yield grant_project_step(deployment, deployment.build_service_account, "roles/run.builder")
    if deployment.any(lambda function: function.is_job):
        # gcloud takes no build account for Cloud Run jobs: the project's default one builds them.
        describe = ("gcloud", "projects", "describe", deployment.project, "--format=value(projectNumber)")
        yield Lookup("PROJECT_NUMBER", describe)
        builder = f"{variable('PROJECT_NUMBER')}-compute@developer.gserviceaccount.com"
        yield grant_project_step(deployment, builder, "roles/run.builder")
    for secret in _secrets(deployment):
        yield _grant(deployment, ("secrets",), secret, "roles/secretmanager.secretAccessor")
    for name in filter(None, options["ALLOWED_BUCKETS"].split(",")):
        yield grant_bucket_step(deployment, name, "roles/storage.objectViewer")
    if deployment.any_needs("jobs") or deployment.any(deployment.makes_plans):
        yield bucket_step(deployment, deployment.bucket("jobs"))
        if deployment.any_needs("jobs"):
            yield _expire_jobs(deployment)
        yield grant_bucket_step(deployment, deployment.bucket("jobs"), "roles/storage.objectUser")
    if deployment.any_needs("photos"):
        yield bucket_step(deployment, deployment.bucket("photos"))
        yield grant_bucket_step(deployment, deployment.bucket("photos"), "roles/storage.objectViewer")
    if deployment.any_needs("index"):
        yield from _index(deployment)


def account_steps(deployment: Deployment, option: str, email: str, title: str) -> Iterator[Step]:
    """Makes a service account unless it exists or `option` names it."""
    if deployment.options[option]:
        return
    accounts = ("iam", "service-accounts")
    yield Unless(
        deployment.gcloud(*accounts, "list", f"--filter=email={email}", "--format=value(email)"),
        deployment.gcloud(*accounts, "create", email.partition("@")[0], f"--display-name={title}"),
    )


def grant_project_step(deployment: Deployment, account: str, role: str) -> Step:
    """Grants `account` a role in the project."""
    return Run(
        (
            *("gcloud", "projects", "add-iam-policy-binding", deployment.project),
            *(f"--member=serviceAccount:{account}", f"--role={role}", "--condition=None", "--format=none"),
        ),
        retry=True,
    )


def _grant(
    deployment: Deployment, group: tuple[str, ...], resource: str, role: str, account: str = ""
) -> Step:
    """Grants an account, by default the functions', a role for one resource."""
    member = f"--member=serviceAccount:{account or deployment.service_account}"
    return Run(
        deployment.gcloud(
            *group, "add-iam-policy-binding", resource, member, f"--role={role}", "--format=none"
        ),
        retry=True,
    )


def grant_bucket_step(deployment: Deployment, name: str, role: str, account: str = "") -> Step:
    """Grants an account, by default the functions', a role on a bucket."""
    return _grant(deployment, ("storage", "buckets"), f"gs://{name}", role, account)


def bucket_step(deployment: Deployment, name: str) -> Step:
    """Makes a bucket unless it exists."""
    return Unless(
        deployment.gcloud("storage", "buckets", "describe", f"gs://{name}", "--format=value(name)"),
        deployment.gcloud(
            *("storage", "buckets", "create", f"gs://{name}", f"--location={deployment.region}"),
            *("--uniform-bucket-level-access", "--public-access-prevention"),
        ),
    )


def _expire_jobs(deployment: Deployment) -> Step:
    """Makes the bucket of jobs delete old ones, unless it has rules: an update would replace all of them."""
    bucket = f"gs://{deployment.bucket('jobs')}"
    rule = deployment.lifecycle_file
    return Unless(
        deployment.gcloud("storage", "buckets", "describe", bucket, "--format=value(lifecycle_config)"),
        deployment.gcloud("storage", "buckets", "update", bucket, f"--lifecycle-file={rule}"),
        expected=f"{JOBS_FOLDER}/",
        conflict=f"{bucket} has lifecycle rules of its own: add the one in {rule} to them, "
        "or name another bucket with --jobs-bucket.",
        check_failure=f"the bucket {bucket} cannot be read.",
    )


def _index(deployment: Deployment) -> Iterator[Step]:
    """Makes the resources that the index backend needs, and grants the functions its roles."""
    backend = chosen_backend(deployment.options)
    first = next(function for function in deployment.functions if "index" in function.needs)
    values = {
        **deployment.index_placeholders(),
        "region": deployment.region,
        "dimensions": str(deployment.facts(first).dimensions),
    }
    for provision in backend.provisions:
        create = deployment.gcloud(*(part.format(**values) for part in provision.create))
        if provision.check is None:
            yield Run(create)
        else:
            yield Unless(deployment.gcloud(*(part.format(**values) for part in provision.check)), create)
    roles = [*backend.roles, *(("roles/cloudsql.client",) if cloud_sql_instance(deployment.options) else ())]
    for role in roles:
        yield grant_project_step(deployment, deployment.service_account, role)


def _secrets(deployment: Deployment) -> list[str]:
    """The secrets that the functions read."""
    secrets = [deployment.options["API_KEY_SECRET"]]
    if deployment.any_needs("index"):
        secrets += index_secrets(deployment.options).values()
    return [*dict.fromkeys(filter(None, secrets))]
