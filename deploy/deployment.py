"""The facts that every step of a deployment shares: project, accounts, buckets, index."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from clip_embeddings.functions import Function
from deploy.artifact import chosen_backend, make_artifact
from deploy.gcloud import in_project
from deploy.options import CommandLine
from deploy.sizing import ModelFacts, model_facts
from deploy.steps import Command

# The value of the label `app` of everything that is deployed.
APP_LABEL = "clip-functions"
# The folder of the bucket of jobs that holds them, so that its lifecycle rule concerns nothing else.
JOBS_FOLDER = "jobs"
# The folder of the same bucket for the plans of Cloud Run jobs, which remove old ones themselves.
PLANS_FOLDER = "plans"
# The bucket's lifecycle rule, in the folder of staged functions.
LIFECYCLE_FILE = "jobs-lifecycle.json"


@dataclass(frozen=True)
class Deployment:
    """Some functions in a project."""

    options: CommandLine
    # The project's ID. In a dry run without --project: the variable whose value the printed plan looks up.
    project: str
    functions: tuple[Function, ...]

    def any(self, condition: Callable[[Function], object]) -> bool:
        """Whether `condition` holds for one of the functions."""
        return any(map(condition, self.functions))

    def any_needs(self, need: str) -> bool:
        """Whether one of the functions has this need."""
        return self.any(lambda function: need in function.needs)

    def gcloud(self, *arguments: str) -> Command:
        """A command of gcloud for the project."""
        return in_project(self.project, *arguments)

    def facts(self, function: Function) -> ModelFacts:
        """The models of a function. Raises ModelError if one is not baked, except in a dry run."""
        artifact = make_artifact(function, self.options)
        return model_facts(artifact, ceil(float(self.options["CPU"])), assume=self.options.dry_run)

    @property
    def region(self) -> str:
        """Where the functions run."""
        return self.options["REGION"]

    @property
    def service_account(self) -> str:
        """The account that functions run as."""
        return self.options["SERVICE_ACCOUNT"] or self._account("clip-functions")

    @property
    def build_service_account(self) -> str:
        """The account that builds functions."""
        return self.options["BUILD_SERVICE_ACCOUNT"] or self._account("clip-builds")

    @property
    def trigger_service_account(self) -> str:
        """The account that delivers events."""
        return self.options["TRIGGER_SERVICE_ACCOUNT"] or self._account("clip-events")

    def _account(self, name: str) -> str:
        return f"{name}@{self.project}.iam.gserviceaccount.com"

    def bucket(self, need: str) -> str:
        """The name of a bucket; `need` is "jobs" or "photos"."""
        return self.options[f"{need.upper()}_BUCKET"] or f"{self.project}-clip-{need}"

    def makes_plans(self, function: Function) -> bool:
        """Whether the tasks of a Cloud Run job share their work by a plan, in the bucket of jobs."""
        return function.is_job and int(self.options["TASKS"]) > 1

    @property
    def lifecycle_file(self) -> str:
        """Path of the rule by which the bucket of jobs deletes old ones."""
        return f"{self.options['BUILD_DIR']}/{LIFECYCLE_FILE}"

    def index_placeholders(self) -> dict[str, str]:
        """The values of the placeholders in the index backend's URL."""
        if url := self.options.settings.get("INDEX_URL"):
            match = re.fullmatch(chosen_backend(self.options).url_pattern, url)
            return match.groupdict() if match else {}
        return {"project": self.project, "collection": self.options["COLLECTION"]}

    def index_url(self) -> str:
        """The setting INDEX_URL of functions that use the index; empty if they read it from a secret."""
        form = chosen_backend(self.options).deployed_url or ""
        return self.options.settings.get("INDEX_URL") or form.format(**self.index_placeholders())


def service_name(function: Function) -> str:
    """The name of a function in Cloud Run, and of its trigger in Eventarc: without underscores."""
    return function.name.replace("_", "-")


def resource_kind(function: Function) -> str:
    """The command group of `gcloud run` for a function."""
    return "jobs" if function.is_job else "services"


def logs_command(deployment: Deployment, function: Function) -> Command:
    """Prints the newest log lines of a function."""
    read = ("run", resource_kind(function), "logs", "read", service_name(function))
    return deployment.gcloud(*read, f"--region={deployment.region}", "--limit=100")
