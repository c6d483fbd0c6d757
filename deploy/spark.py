"""The Spark job on Dataproc Serverless: what it is submitted with, and the steps of `deploy.sh spark run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.deployment import Deployment
from deploy.gcloud import join_values
from deploy.options import CommandLine
from deploy.resources import account_steps, bucket_step, enable_steps, grant_bucket_step, grant_project_step
from deploy.spark_staging import FOLDER, MAIN, stage_spark
from deploy.steps import Run, Step

# The runtime, whose version of Python is PYTHON in spark_staging.
# https://cloud.google.com/dataproc-serverless/docs/concepts/versions/spark-runtime-3.0
RUNTIME = "3.0"
APIS = ("dataproc", "dataprocrm", "storage", "iam", "cloudresourcemanager")

PROPERTIES = {
    # Archives are extracted into the working directory of the driver and of each executor.
    "spark.dataproc.driverEnv.PYSPARK_PYTHON": "./environment/bin/python",
    "spark.executorEnv.PYSPARK_PYTHON": "./environment/bin/python",
    # A worker process for each core takes MEMORY_LIMIT, outside of Java's memory.
    "spark.executor.cores": "4",
    "spark.executor.memory": "2g",
    "spark.executor.memoryOverhead": "6g",
}


def spark_plan(deployment: Deployment, arguments: Sequence[str]) -> Iterator[Step]:
    """Stages the job, uploads it, and runs it with `arguments` until its end."""
    options = deployment.options
    bucket = options["SPARK_BUCKET"] or f"{deployment.project}-clip-spark"
    yield spark_stage_step(options)
    yield from enable_steps(deployment, APIS)
    account = deployment.service_account
    yield from account_steps(deployment, "SERVICE_ACCOUNT", account, "CLIP functions")
    yield grant_project_step(deployment, account, "roles/dataproc.worker")
    yield bucket_step(deployment, bucket)
    yield grant_bucket_step(deployment, bucket, "roles/storage.objectUser")
    place = f"gs://{bucket}/job"
    # Not by --deps-bucket: gcloud would look for files whose names end with #environment and #model.
    yield Run(deployment.gcloud("storage", "rsync", f"{options['BUILD_DIR']}/{FOLDER}/upload", place))
    yield Run(
        (
            *deployment.gcloud(
                *("dataproc", "batches", "submit", "pyspark", f"{place}/{MAIN}"),
                f"--region={deployment.region}",
                f"--version={RUNTIME}",
                f"--service-account={account}",
                "--user-workload-authentication-type=SERVICE_ACCOUNT",
                f"--py-files={place}/pipelines.zip",
                f"--archives={place}/environment.tar.gz#environment,{place}/model.tar.gz#model",
                f"--properties={join_values([f'{name}={value}' for name, value in PROPERTIES.items()])}",
            ),
            *("--", "--model=./model", *_settings(options), *arguments),
        )
    )


def spark_stage_step(options: CommandLine) -> Step:
    """Assembles what is uploaded. A printed plan has the command that does the same."""
    command = ["./deploy.sh", f"--model={options['MODEL']}"]
    if options["BUILD_DIR"] != "build":
        command.append(f"--build-dir={options['BUILD_DIR']}")
    return Run((*command, "spark", "stage"), action=lambda: stage_spark(options))


def _settings(options: CommandLine) -> Iterator[str]:
    for name, value in options.settings.items():
        yield f"--setting={name}={value}"
