"""A request's whole life: find its route, check the key, call the handler, log one line whatever happens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import quote

import orjson
from flask import Request, Response, current_app, has_app_context
from flask import request as current_request

from clip_embeddings.errors import ApiError
from clip_embeddings.functions import find_function
from clip_embeddings.http.auth import check_key
from clip_embeddings.http.bodies import drain_body, set_read_timeout
from clip_embeddings.http.cors import allow_origin, is_preflight, preflight
from clip_embeddings.http.endpoints import protocol_routes
from clip_embeddings.http.errors import to_api_error
from clip_embeddings.http.routing import RequestContext, Route, Router, wants_html
from clip_embeddings.http.status import status_routes
from clip_embeddings.logs import Timings, logger, trace_field
from clip_embeddings.protocols.base import ErrorFormat
from clip_embeddings.runtime import Runtime


class Worker(Protocol):
    """Background work of the serving process."""

    def start(self) -> None:
        """Begin. Repeated calls are cheap."""


@dataclass(frozen=True)
class App:
    """An HTTP function: what it holds, its routes, and its background work."""

    runtime: Runtime
    router: Router = field(repr=False)
    workers: tuple[Worker, ...] = field(default=(), repr=False)


def make_app(runtime: Runtime, routes: Sequence[Route] = (), workers: Sequence[Worker] = ()) -> App:
    """The function `runtime.name`: its client protocols, further `routes`, and the status routes.

    POST at `/` means POST at the function's `root`, if the registry gives it one.
    """
    own = [*protocol_routes(runtime.name), *routes]
    root = find_function(runtime.name).root
    own += [
        replace(route, path="/", operation_id=f"{route.operation_id}_root")
        for route in own
        if route.path == root and route.method == "POST"
    ]
    app = App(runtime, Router(status_routes(own)), tuple(workers))
    if has_app_context():
        # Paths that the framework itself would answer in HTML: one with a line break, /favicon.ico.
        current_app.register_error_handler(404, lambda _: serve(current_request, app))
    return app


def serve(request: Request, app: App) -> Response:
    """Answer one request."""
    # Started here and not at import, because threads do not survive the fork before serving.
    for worker in app.workers:
        worker.start()
    timings = Timings()
    settings = app.runtime.settings
    request.max_content_length = settings.limits.request_bytes
    set_read_timeout(request, settings.limits.body_timeout)
    path = request.path.rstrip("/") or "/"
    try:
        response = _respond(request, app, path, timings)
    except Exception as error:
        subject = f"{app.runtime.name} {quote(request.path[:200])}"
        response = _error_response(to_api_error(error, subject), app.router.error_format(path))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(app.router.methods(path))
    drain_body(request)
    set_read_timeout(request, None)
    allow_origin(response, settings.origins, request.headers.get("Origin", ""))
    if app.router.page(path):
        response.vary.add("Accept")
    response.headers["Server-Timing"] = timings.header()
    _log(request, response, app.runtime.name, timings)
    return response


def _respond(request: Request, app: App, path: str, timings: Timings) -> Response:
    """What the route answers. Without the API key, nothing but pages and public routes is revealed."""
    settings = app.runtime.settings
    if is_preflight(request):
        return preflight(", ".join(app.router.methods(path)), settings.origins, request)
    if wants_html(request) and (page := app.router.page(path)):
        return page(request)
    if path not in app.router.public_paths:
        check_key(request, settings.api_key)
    methods = app.router.methods(path)
    if request.method == "OPTIONS" and methods:
        return Response(status=204, headers={"Allow": ", ".join(methods)})
    route, path_params = app.router.match(request, path)
    reply = route.handler(RequestContext(request, route, path_params, app.runtime, timings))
    with timings.measure("write"):
        return reply if isinstance(reply, Response) else _json_response(reply)


def _json_response(body: Any, status: int = 200) -> Response:
    # orjson writes float32 rows straight from numpy, in the fewest digits that read back the same.
    data = b"" if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, status, mimetype="application/json")


def _error_response(error: ApiError, errors: ErrorFormat) -> Response:
    response = _json_response(errors.write(error), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _log(request: Request, response: Response, name: str, timings: Timings) -> None:
    fields: dict[str, object] = {
        "status": response.status_code,
        "items": timings.items,
        "failures": len(timings.failures),
        **{f"{stage}_ms": value for stage, value in timings.milliseconds().items()},
        **trace_field(request.headers),
    }
    if timings.failures:
        fields["codes"] = ",".join(sorted(set(timings.failures)))
    # Requested often, and of no interest while they succeed.
    if request.path in ("/health", "/ready", "/thumbnail") and response.status_code in (200, 304):
        log = logger.debug
    else:
        log = logger.warning if timings.failures else logger.info
    # Quoted, so that no path can write a log line of its own.
    log("%s %s %s", name, request.method[:20], quote(_loggable_path(request)), extra={"fields": fields})


def _loggable_path(request: Request) -> str:
    # A job's id is a secret: it gives access to the result.
    return re.sub(r"(/jobs/).*", r"\1...", request.path[:200], flags=re.DOTALL)
