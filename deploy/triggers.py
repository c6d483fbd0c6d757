"""Eventarc triggers: the events of a bucket that start a function."""

from __future__ import annotations

from collections.abc import Iterator

from clip_embeddings.functions import Function
from deploy.deployment import Deployment, service_name
from deploy.resources import account_steps, grant_project_step
from deploy.steps import Lookup, Run, Step, Unless, variable


def event_resource_steps(deployment: Deployment) -> Iterator[Step]:
    """Makes what all triggers need: an account that delivers events, and the role to publish them."""
    account = deployment.trigger_service_account
    yield from account_steps(deployment, "TRIGGER_SERVICE_ACCOUNT", account, "CLIP events")
    yield Lookup("STORAGE_AGENT", deployment.gcloud("storage", "service-agent"))
    yield grant_project_step(deployment, variable("STORAGE_AGENT"), "roles/pubsub.publisher")
    yield grant_project_step(deployment, account, "roles/eventarc.eventReceiver")


def trigger_steps(deployment: Deployment, function: Function) -> Iterator[Step]:
    """The trigger of a function, if an event starts it."""
    event = function.event
    if event is None:
        return
    service = service_name(function)
    bucket = deployment.bucket(event.bucket)
    account = deployment.trigger_service_account
    yield Run(
        deployment.gcloud(
            *("run", "services", "add-iam-policy-binding", service, f"--region={deployment.region}"),
            *(f"--member=serviceAccount:{account}", "--role=roles/run.invoker", "--format=none"),
        ),
        retry=True,
    )
    # A bucket's events are delivered where the bucket is, which need not be where functions run.
    describe = ("storage", "buckets", "describe", f"gs://{bucket}", "--format=value(location.lower())")
    yield Lookup("LOCATION", deployment.gcloud(*describe))
    location = f"--location={variable('LOCATION')}"
    triggers = ("eventarc", "triggers")
    yield Unless(
        deployment.gcloud(*triggers, "describe", service, location, "--format=value(eventFilters)"),
        deployment.gcloud(
            *(*triggers, "create", service, location),
            *(f"--destination-run-service={service}", f"--destination-run-region={deployment.region}"),
            f"--event-filters=type=google.cloud.storage.object.v1.{event.kind}",
            *(f"--event-filters=bucket={bucket}", f"--service-account={account}"),
        ),
        retry=True,
        expected=f"'{bucket}'",
        conflict=f"the trigger {service} watches another bucket: run ./deploy.sh delete {function.name}, "
        "then deploy it again.",
    )


def delete_trigger_steps(deployment: Deployment, function: Function) -> Iterator[Step]:
    """Deletes the trigger of a function, wherever it is, if there is one."""
    if function.event is None:
        return
    name = f"--filter=name~/triggers/{service_name(function)}$"
    yield Lookup(
        "TRIGGER_NAME",
        deployment.gcloud("eventarc", "triggers", "list", "--location=-", name, "--format=value(name)"),
        optional=True,
        failure=f"the triggers of {deployment.project} cannot be listed.",
    )
    yield Run(("gcloud", "eventarc", "triggers", "delete", variable("TRIGGER_NAME"), "--quiet"))
