"""The job convention's routes, over a bucket that keeps the jobs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Response

from clip_embeddings.config import ROOT, need_package
from clip_embeddings.embedding import embed
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import read_json
from clip_embeddings.http.routing import RequestContext, Route
from clip_embeddings.jobs import schema as fes
from clip_embeddings.jobs.runner import LocalRunner
from clip_embeddings.jobs.store import JobStore
from clip_embeddings.logs import Timings, logger
from clip_embeddings.protocols.base import JSON, Body
from clip_embeddings.runtime import Runtime, exit_on_config_error
from clip_embeddings.storage.factory import open_bucket

# How results of the other kind begin, by whether a route is for batched jobs.
OTHER_KIND = {False: b'{"status":"complete","result":[', True: b'{"status":"complete","result":{'}


@dataclass(frozen=True)
class Jobs:
    """Where jobs are kept and, if they are run in this process, what runs them."""

    store: JobStore
    runner: LocalRunner | None

    def submit(self, record: dict[str, Any]) -> str:
        """Keep a request durably; returns the job's id."""
        job = self.store.submit(record)
        if self.runner:
            self.runner.add(job)
        return job

    def start(self) -> None:
        """Take up what is unfinished, if jobs are run here. Repeated calls are cheap."""
        if self.runner:
            self.runner.start()


def open_jobs(runtime: Runtime) -> Jobs:
    """The jobs of this deployment: in a folder they are run here, in Cloud Storage by `run_job`."""
    settings = runtime.settings.jobs
    if (settings.url or "").startswith("gs:"):
        with exit_on_config_error(runtime.name):
            need_package("JOBS_URL", "google.cloud.storage")
    bucket = open_bucket(settings.url or default_url())
    store = JobStore(bucket, ttl=settings.ttl, deadline=settings.deadline)
    if not bucket.url.startswith("file:"):
        return Jobs(store, None)
    if runtime.settings.in_cloud:
        logger.warning(
            "JOBS_URL is a folder of this instance: jobs are lost with it. Use gs://bucket/prefix."
        )
    return Jobs(store, LocalRunner(store, lambda record: compute(record, runtime)))


def default_url() -> str:
    """A folder for temporary files, of this user and this copy of the package alone."""
    digest = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    return (Path(tempfile.gettempdir()) / f"clip-jobs-{os.getuid()}-{digest}").as_uri()


def job_routes(jobs: Jobs) -> tuple[Route, ...]:
    """Every route of the convention."""
    return (
        *(route for task in fes.TASKS for route in _task_routes(task, jobs)),
        _get("/api/tasks", "list_all_tasks_api_tasks_get", "All tasks", lambda call: list(fes.TASKS)),
        _get(
            "/api/tasks/{task}/models",
            "list_all_models_for_task_api_tasks__task__models_get",
            "The models that do a task",
            _models_of_task,
        ),
        _get(
            "/api/models",
            "list_all_models_api_models_get",
            "All models",
            lambda call: list(call.runtime.models),
        ),
        _get(
            "/api/models/{model}/tasks",
            "list_all_tasks_for_model_api_models__model__tasks_get",
            "The tasks a model does",
            _tasks_of_model,
        ),
        _get(
            "/api/models/{model}/status",
            "get_model_status_api_models__model__status_get",
            "Whether a model is loaded on this instance",
            _model_status,
            fes.ModelStatus,
        ),
        _post_model("start", "Load a model on this instance", _start),
        _post_model("stop", "Unload a model on this instance", _stop),
    )


def compute(record: Mapping[str, Any], runtime: Runtime) -> Any:
    """Do a job: the result of the request that `submit` was given.

    Raises:
        CallerError: the job cannot be done; for a batched one only if nothing of it can.
    """
    tower, batched = fes.TASKS[record["task"]], record["batched"]
    items = fes.read_input(record["input"], tower, batched, runtime.settings.jobs.items)
    ask = fes.make_ask(items, tower, record["model"], runtime.settings.limits)
    return fes.write_result(embed(ask, runtime, Timings(), background=True), batched)


def _task_routes(task: str, jobs: Jobs) -> tuple[Route, ...]:
    tower = fes.TASKS[task]
    name = task.replace("-", "_")

    def submit(batched: bool) -> Callable[[RequestContext], Any]:
        def answer(call: RequestContext) -> Any:
            record = _record(call, task, batched)
            return {"id": jobs.submit(record), "status": "starting"}

        return answer

    def read(batched: bool) -> Callable[[RequestContext], Any]:
        def answer(call: RequestContext) -> Any:
            reply = jobs.store.reply(call.arguments["job"])
            # As it was stored: a result of many vectors is not parsed to be sent.
            if reply is None or reply.startswith(OTHER_KIND[batched]):
                raise ApiError(404, "job_unknown", "There is no such job, or it has expired.")
            return Response(reply, mimetype="application/json")

        return answer

    def legacy(call: RequestContext) -> Any:
        record = _record(call, task, batched=False)
        limits = call.runtime.settings.limits
        ask = fes.make_ask([record["input"][tower]], tower, record["model"], limits)
        return fes.write_result(embed(ask, call.runtime, call.timings), batched=False)

    def post(path: str, operation: str, summary: str, answer: Any, reply: Any, batched: bool) -> Route:
        return Route(
            method="POST",
            path=path,
            operation=operation,
            summary=summary,
            answer=answer,
            reply=reply,
            body=Body(JSON, fes.INPUTS[tower, batched]),
            faults=(400, 404, 408, 413, 415, 422, 429, 503),
            errors=fes.ERRORS,
            tag=task,
        )

    def get(path: str, operation: str, summary: str, batched: bool) -> Route:
        return _get(path, operation, summary, read(batched), fes.REPLIES[tower, batched], tag=task)

    base = f"/api/tasks/{task}"
    return (
        post(
            f"{base}/{{model}}/jobs",
            f"new_job_api_tasks_{name}__model__jobs_post",
            "Submit a job",
            submit(batched=False),
            fes.JobStatus,
            batched=False,
        ),
        get(
            f"{base}/jobs/{{job}}",
            f"get_job_results_api_tasks_{name}_jobs__job__get",
            "How far a job is, and its result",
            batched=False,
        ),
        post(
            f"{base}/batched/{{model}}/jobs",
            f"new_batched_job_api_tasks_{name}_batched__model__jobs_post",
            "Submit a job of many items",
            submit(batched=True),
            fes.JobStatus,
            batched=True,
        ),
        get(
            f"{base}/batched/jobs/{{job}}",
            f"get_batched_job_results_api_tasks_{name}_batched_jobs__job__get",
            "How far a batched job is, and its results",
            batched=True,
        ),
        post(
            f"/api/legacy/tasks/{task}/{{model}}/jobs",
            f"new_job_results_api_legacy_tasks_{name}__model__jobs_post",
            "One item, answered at once",
            legacy,
            fes.OUTPUTS[tower],
            batched=False,
        ),
    )


def _record(call: RequestContext, task: str, batched: bool) -> dict[str, Any]:
    """A request for a job, checked: what `compute` takes."""
    tower, name = fes.TASKS[task], call.arguments["model"]
    model = call.runtime.choose(name)
    if tower not in model.manifest.towers:
        raise ApiError(404, "task_unknown", f"The model {name[:100]!r} does not do {task}.")
    try:
        body = read_json(call.request, call.runtime.settings.limits)
    except ApiError as error:
        status = 422 if error.status == 400 else error.status
        raise ApiError(status, error.code, error.message) from None
    items = fes.read_input(body, tower, batched, call.runtime.settings.jobs.items)
    value: Any = items if batched else items[0]
    return {"task": task, "model": model.manifest.name, "batched": batched, "input": {tower: value}}


def _models_of_task(call: RequestContext) -> Any:
    tower = fes.TASKS.get(call.arguments["task"])
    if tower is None:
        raise ApiError(404, "task_unknown", f"No such task; there are {', '.join(fes.TASKS)}.")
    return [name for name, model in call.runtime.models.items() if tower in model.manifest.towers]


def _tasks_of_model(call: RequestContext) -> Any:
    towers = call.runtime.choose(call.arguments["model"]).manifest.towers
    return [task for task, tower in fes.TASKS.items() if tower in towers]


def _model_status(call: RequestContext) -> Any:
    model = call.runtime.choose(call.arguments["model"])
    state = "running" if model.text.made or model.image.made else "stopped"
    return {"status": state, "jobs": []}


def _start(call: RequestContext) -> None:
    model = call.runtime.choose(call.arguments["model"])
    for tower, holder in (("text", model.text), ("image", model.image)):
        if tower in model.manifest.towers and tower in call.runtime.towers:
            holder.get()


def _stop(call: RequestContext) -> None:
    model = call.runtime.choose(call.arguments["model"])
    model.text.clear()
    model.image.clear()


def _get(
    path: str, operation: str, summary: str, answer: Any, reply: Any = list[str], tag: str = "models"
) -> Route:
    faults = (404, 503) if "{" in path else ()
    return Route("GET", path, operation, summary, answer, reply, faults=faults, errors=fes.ERRORS, tag=tag)


def _post_model(verb: str, summary: str, answer: Any) -> Route:
    return Route(
        method="POST",
        path=f"/api/models/{{model}}/{verb}",
        operation=f"{verb}_model_api_models__model__{verb}_post",
        summary=summary,
        answer=answer,
        reply=None,
        faults=(404,),
        errors=fes.ERRORS,
        tag="models",
    )
