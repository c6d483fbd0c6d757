"""The HTTP routes of jobs: submit, poll, list tasks and models, start and stop models.

Paths, operation ids, tags and documented statuses are those of vitrivr/feature-extraction-server
(openapi_spec.json), because clients are generated from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response

from clip_embeddings.errors import ApiError
from clip_embeddings.http.provenance import provenance_headers
from clip_embeddings.http.routing import Reply, RequestContext, Route
from clip_embeddings.jobs import schema
from clip_embeddings.jobs.service import Jobs
from clip_embeddings.jobs.tasks import TASKS, Task

Handler = Callable[[RequestContext], Any]

# How the reply for a job that is complete begins.
COMPLETE = b'{"status":"complete","result":'


def job_routes(jobs: Jobs) -> tuple[Route, ...]:
    """Every route of the protocol."""
    return (
        *(route for name, task in TASKS.items() for route in _task_routes(name, task, jobs)),
        _get(
            "/api/tasks",
            "list_all_tasks_api_tasks_get",
            "All tasks",
            lambda context: list(TASKS),
            tag="tasks",
        ),
        _get(
            "/api/tasks/{task}/models",
            "list_all_models_for_task_api_tasks__task__models_get",
            "The models that do a task",
            _models_of_task,
            tag="tasks",
        ),
        _get(
            "/api/models",
            "list_all_models_api_models_get",
            "All models",
            lambda context: list(context.runtime.models),
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
            schema.ModelStatus,
        ),
        _post_model("start", "Load a model on this instance", _start),
        _post_model("stop", "Unload a model on this instance", _stop),
    )


def _task_routes(name: str, task: Task, jobs: Jobs) -> tuple[Route, ...]:
    task_id = name.replace("-", "_")
    base = f"/api/tasks/{name}"

    def post(
        path: str, operation_id: str, summary: str, handler: Handler, reply: Any, batched: bool
    ) -> Route:
        return Route(
            method="POST",
            path=path,
            operation_id=operation_id,
            summary=summary,
            handler=handler,
            reply=reply,
            body=task.body(batched),
            error_statuses=(400, 404, 408, 413, 415, 422, 429, 503),
            errors=schema.ERRORS,
            provenance=reply is not schema.JobStatus,
            tag=name,
            example=task.example_of(batched),
        )

    def get(path: str, operation_id: str, summary: str, batched: bool) -> Route:
        reply = task.replies[batched]
        return _get(
            path, operation_id, summary, _read_handler(jobs, task, batched), reply, tag=name, provenance=True
        )

    return (
        post(
            f"{base}/{{model}}/jobs",
            f"new_job_api_tasks_{task_id}__model__jobs_post",
            "Submit a job",
            _submit_handler(jobs, name, batched=False),
            schema.JobStatus,
            batched=False,
        ),
        get(
            f"{base}/jobs/{{job}}",
            f"get_job_results_api_tasks_{task_id}_jobs__job__get",
            "How far a job is, and its result",
            batched=False,
        ),
        post(
            f"{base}/batched/{{model}}/jobs",
            f"new_batched_job_api_tasks_{task_id}_batched__model__jobs_post",
            "Submit a job of many items",
            _submit_handler(jobs, name, batched=True),
            schema.JobStatus,
            batched=True,
        ),
        get(
            f"{base}/batched/jobs/{{job}}",
            f"get_batched_job_results_api_tasks_{task_id}_batched_jobs__job__get",
            "How far a batched job is, and its results",
            batched=True,
        ),
        post(
            f"/api/legacy/tasks/{name}/{{model}}/jobs",
            f"new_job_results_api_legacy_tasks_{task_id}__model__jobs_post",
            "One item, answered at once",
            _legacy_handler(name),
            task.output,
            batched=False,
        ),
    )


def _submit_handler(jobs: Jobs, name: str, *, batched: bool) -> Handler:
    task = TASKS[name]

    def handler(context: RequestContext) -> Any:
        model = _model(context, name)
        body = context.read_body()
        items = task.items(body, batched, context.runtime.settings.jobs.items)
        value: Any = items if batched else items[0]
        options = {field: getattr(body, field) for field in task.options}
        if options:
            # What is wrong about them fails the whole job: better now than in its result.
            task.request(body, (), model, context.limits)
        record = {
            "task": name,
            "model": model,
            "batched": batched,
            "input": {task.field: value, **options},
        }
        return {"id": jobs.submit(record), "status": "starting"}

    return handler


def _read_handler(jobs: Jobs, task: Task, batched: bool) -> Handler:
    # How a result of this kind begins: its first key is the output's field.
    own = COMPLETE + (b"[" if batched else b"") + b'{"' + task.output_field.encode() + b'"'

    def handler(context: RequestContext) -> Any:
        reply = jobs.store.reply(context.path_params["job"])
        # Sent as it was stored: a result of many vectors is not parsed.
        if reply is None or (reply.body.startswith(COMPLETE) and not reply.body.startswith(own)):
            raise ApiError(404, "job_unknown", "There is no such job, or it has expired.")
        return Response(reply.body, headers=reply.headers, mimetype="application/json")

    return handler


def _legacy_handler(name: str) -> Handler:
    task = TASKS[name]

    def handler(context: RequestContext) -> Any:
        model = _model(context, name)
        body = context.read_body()
        request = task.request(body, task.items(body, False, 1), model, context.limits)
        result = task.compute(request, context.runtime, context.timings, check=context.check_connected)
        return Reply(task.write(result, batched=False), provenance_headers(result))

    return handler


def _model(context: RequestContext, task: str) -> str:
    """The name of the model in the path. Raises ApiError 404 or 400 if it does not do the task."""
    name = context.path_params["model"]
    model = context.runtime.choose(name)
    if not TASKS[task].has_towers(model):
        raise ApiError(404, "task_unknown", f"The model {name[:100]!r} does not do {task}.")
    if check := TASKS[task].check:
        check(model)
    return model.manifest.name


def _models_of_task(context: RequestContext) -> Any:
    task = TASKS.get(context.path_params["task"])
    if task is None:
        raise ApiError(404, "task_unknown", f"No such task; there are {', '.join(TASKS)}.")
    return [name for name, model in context.runtime.models.items() if task.is_done_by(model)]


def _tasks_of_model(context: RequestContext) -> Any:
    model = context.runtime.choose(context.path_params["model"])
    return [name for name, task in TASKS.items() if task.is_done_by(model)]


def _model_status(context: RequestContext) -> Any:
    model = context.runtime.choose(context.path_params["model"])
    state = "running" if model.text.made or model.image.made else "stopped"
    return {"status": state, "jobs": []}


def _start(context: RequestContext) -> Any:
    model = context.runtime.choose(context.path_params["model"])
    for tower, holder in (("text", model.text), ("image", model.image)):
        if tower in model.manifest.towers and tower in context.runtime.towers:
            holder.get()
    # The original's body is empty, but its document promises JSON, and clients generated from it parse some.
    return {}


def _stop(context: RequestContext) -> Any:
    model = context.runtime.choose(context.path_params["model"])
    model.text.clear()
    model.image.clear()
    return {}


def _get(
    path: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    reply: Any = list[str],
    tag: str = "models",
    *,
    provenance: bool = False,
) -> Route:
    return Route(
        method="GET",
        path=path,
        operation_id=operation_id,
        summary=summary,
        handler=handler,
        reply=reply,
        # The original documents 422 wherever a path has parameters, but never has a cause to answer it.
        error_statuses=(404, 422, 503) if "{" in path else (),
        errors=schema.ERRORS,
        provenance=provenance,
        tag=tag,
    )


def _post_model(verb: str, summary: str, handler: Handler) -> Route:
    return Route(
        method="POST",
        path=f"/api/models/{{model}}/{verb}",
        operation_id=f"{verb}_model_api_models__model__{verb}_post",
        summary=summary,
        handler=handler,
        reply={},
        error_statuses=(404, 422),
        errors=schema.ERRORS,
        tag="models",
    )
