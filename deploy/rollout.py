"""The deployment of an HTTP function: a new revision gets traffic after its /ready has answered 200.

A first revision gets it at once, because gcloud refuses --no-traffic for a new service. Until the check, the
revision has the tag `candidate`, which one request removes as it moves the traffic. The service itself tells
therefore whether an earlier deployment was finished; what was not is deployed again.
"""

from __future__ import annotations

from collections.abc import Iterator

from clip_embeddings.functions import Function
from deploy.deployment import Deployment, logs_command, service_name
from deploy.execution import retry_seconds
from deploy.steps import Command, Lookup, Run, RunIfPasses, Step, flag_if, line, variable

TAG = "candidate"
TAGGED = f'traffic.filter("tag={TAG}")'
# What gcloud prints for --format=value(REVISION_WITH_TAG): the revision that is being checked, if any.
REVISION_WITH_TAG = f"status.{TAGGED}.extract(revisionName).flatten()"

# Prints the label `deployed` and `SERVING` if what the label names has all traffic: the service is what its
# specification says, which is all traffic to the newest revision and no candidate.
LABEL_THAT_SERVES = (
    'value[separator=" "](metadata.labels.deployed,status.conditions[0].status,'
    f'spec.traffic.filter("percent=100").extract(latestRevision).flatten(),spec.{TAGGED}.len())'
)
SERVING = "True True 0"

# Of /ready: seconds that an answer may take, and how often it is asked again. An address, and the right to
# call it, are known everywhere only after a while.
ANSWER_SECONDS, RETRIES = 120, 8


def rollout_steps(deployment: Deployment, function: Function, deploy: Command) -> Iterator[Step]:
    """Runs `deploy`, checks the new revision at the address of its tag, then moves the traffic to it."""
    service, region = service_name(function), f"--region={deployment.region}"
    # Before anything is deployed that could not be checked afterwards.
    yield Lookup(
        "TOKEN",
        ("gcloud", "auth", "print-identity-token"),
        failure="gcloud gives no identity token, which /ready of the new revision is asked with: log in with "
        "gcloud auth login, or as a service account.",
    )
    listing = ("run", "services", "list", region, f"--filter=metadata.name={service}")
    yield Lookup(
        "REVISION",
        deployment.gcloud(*listing, "--format=value(status.latestReadyRevisionName)"),
        optional=True,
        failure=f"the functions of {deployment.project} cannot be listed.",
    )
    yield Run((*deploy, f"--tag={TAG}", flag_if("REVISION", "--no-traffic")))
    describe = ("run", "services", "describe", service, region)
    url = f"--format=value(status.{TAGGED}.extract(url).flatten())"
    yield Lookup("CANDIDATE", deployment.gcloud(*describe, url))
    move = ("run", "services", "update-traffic", service, region, "--to-latest", f"--remove-tags={TAG}")
    yield RunIfPasses(
        _readiness_request(f"{variable('CANDIDATE')}/ready"),
        f"Authorization: Bearer {variable('TOKEN')}",
        deployment.gcloud(*move, "--format=none"),
        f"{function.name} is deployed, but {variable('CANDIDATE')}/ready does not answer 200, so no traffic "
        "was moved: a revision that served before still serves. (A first one gets its traffic at once.) "
        f"This shows why:\n  {line(logs_command(deployment, function))}\nThen deploy again.",
    )


def _readiness_request(url: str) -> Command:
    """GET `url` with the header on standard input; fails unless it is answered with 200."""
    seconds = str(max(1, retry_seconds()))
    return (
        *("curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", "--header", "@-"),
        *("--max-time", str(ANSWER_SECONDS)),
        *("--retry", str(RETRIES), "--retry-delay", seconds, "--retry-all-errors", url),
    )
