"""Handles one request: finds its route, checks the key, calls the handler, and always logs one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import quote

import msgspec
import orjson
from flask import Request, Response, current_app, has_app_context
from flask import request as current_request

from clip_embeddings import marks
from clip_embeddings.errors import ApiError
from clip_embeddings.functions import find_function
from clip_embeddings.http import provenance
from clip_embeddings.http.auth import carries_key, key_required
from clip_embeddings.http.bodies import JsonReader, drop_body
from clip_embeddings.http.cors import allow_origin, is_preflight, preflight
from clip_embeddings.http.endpoints import load_protocols, protocol_routes, root_route
from clip_embeddings.http.errors import to_api_error
from clip_embeddings.http.host import host_unknown, is_allowed_host
from clip_embeddings.http.parsing_memory import ParsingMemory
from clip_embeddings.http.routing import (
    Reply,
    RequestContext,
    Route,
    Router,
    replace_routes,
    wants_html,
)
from clip_embeddings.http.status import health_routes, status_routes
from clip_embeddings.lazy import Lazy
from clip_embeddings.logs import Timings, logger, mask_ids, trace_field
from clip_embeddings.protocols.base import ErrorFormat
from clip_embeddings.protocols.registry import PROTOCOLS
from clip_embeddings.runtime import Runtime


class Worker(Protocol):
    """Background work of the serving process."""

    def start(self) -> None:
        """Begin. Repeated calls are cheap."""


# Protocols that are imported at start; the others are imported by the first request that needs one.
EAGER = ("native",)
# Paths that are requested often, and of no interest in the log while they succeed.
POLLED = ("/health", "/ready", "/thumbnail", "/ping", "/.well-known/live", "/.well-known/ready")


class App(msgspec.Struct, frozen=True):
    """An HTTP function: what it holds, its routes, and its background work."""

    runtime: Runtime
    # The routes of the eager protocols, and all routes.
    eager: Router
    complete: Lazy[Router]
    workers: tuple[Worker, ...] = ()


def make_app(runtime: Runtime, routes: Sequence[Route] = (), workers: Sequence[Worker] = ()) -> App:
    """The function `runtime.name`: its client protocols, further `routes`, and the status routes.

    POST at `/` means POST at the function's `root`, if the registry gives it one. The health route of the
    settings replaces any route at its path, because Vertex AI chooses the path.
    """
    name, root = runtime.name, find_function(runtime.name).root
    own = [*routes, *(root_route(route) for route in routes if route.path == root and route.method == "POST")]

    def router(protocols: Iterable[str]) -> Router:
        # The function's own routes come first: where a protocol shares their path, they explain best what is
        # wrong.
        described = [*own, *protocol_routes(name, load_protocols(protocols), root, runtime.settings)]
        described += status_routes(lambda: app.complete.get().routes, own, runtime.settings.docs_page)
        return Router(replace_routes(described, health_routes(runtime.settings)))

    app = App(runtime, router(EAGER), Lazy(lambda: router(PROTOCOLS)), tuple(workers))
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
    path = request.path.rstrip("/") or "/"
    subject = f"{app.runtime.name} {quote(_loggable_path(request))}"
    memory = ParsingMemory(app.runtime.memory.parsing)
    try:
        response = _respond(request, app, path, timings, subject, memory)
    except Exception as error:
        errors = app.complete.get().error_format(request, path)
        response = _error_response(to_api_error(error, subject), errors)
    finally:
        memory.release()
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(app.complete.get().methods(path))
    drop_body(request)
    if is_allowed_host(request, settings.hosts):
        allow_origin(response, settings.origins, request.headers.get("Origin", ""))
    if app.eager.page(path):
        response.vary.add("Accept")
    response.headers["Server-Timing"] = timings.header()
    _log(request, response, app.runtime, timings)
    if marks.mark("replied"):
        logger.info("%s started", app.runtime.name, extra={"fields": marks.milliseconds()})
    return response


def _respond(
    request: Request, app: App, path: str, timings: Timings, subject: str, memory: ParsingMemory
) -> Response:
    """What the route answers.

    Without the API key, nothing but pages and public routes is revealed; under another host, nothing at all.
    """
    settings = app.runtime.settings
    if not is_allowed_host(request, settings.hosts):
        raise host_unknown(settings.hosts)
    if is_preflight(request):
        return preflight(", ".join(app.complete.get().methods(path)), settings.origins, request)
    if wants_html(request) and (page := app.eager.page(path)):
        return page(request)
    body = JsonReader(request, settings.limits, memory)
    public = app.eager.is_public(request.method, path) or carries_key(request, settings.api_key)
    if not public and not app.complete.get().is_public(request.method, path):
        raise key_required()
    if request.method == "OPTIONS" and (methods := app.complete.get().methods(path)):
        return Response(status=204, headers={"Allow": ", ".join(methods)})
    match = app.eager.find(request, path, body) or app.complete.get().match(request, path, body)
    route, path_params = match
    try:
        reply = route.handler(RequestContext(request, route, path_params, app.runtime, timings, body))
    except Exception as error:
        return _error_response(to_api_error(error, subject), route.errors)
    with timings.measure("write"):
        if isinstance(reply, Response):
            return reply
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        return _response(reply)


def _response(reply: Reply) -> Response:
    data = reply.body
    if reply.media == "application/json":
        # orjson writes float32 rows straight from numpy, in the fewest digits that read back the same.
        data = b"" if data is None else orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, reply.status, reply.headers, mimetype=reply.media)


def _error_response(error: ApiError, errors: ErrorFormat) -> Response:
    response = _response(Reply(errors.write(error), status=error.status))
    response.headers[provenance.ERROR_CODE] = error.code
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _log(request: Request, response: Response, runtime: Runtime, timings: Timings) -> None:
    fields: dict[str, object] = {
        "status": response.status_code,
        "items": timings.items,
        "failures": len(timings.failures),
        **{f"{stage}_ms": value for stage, value in timings.milliseconds().items()},
        **trace_field(request.headers),
    }
    if timings.failures:
        fields["codes"] = ",".join(sorted(set(timings.failures)))
    # These are polled often, so successful requests are logged at debug level.
    polled = request.path in POLLED or request.path == runtime.settings.aip_health_route
    if polled and response.status_code in (200, 204, 304):
        log = logger.debug
    else:
        log = logger.warning if timings.failures else logger.info
    # Quoted, so that a line break in a path cannot start a new log line.
    log(
        "%s %s %s",
        runtime.name,
        request.method[:20],
        quote(_loggable_path(request)),
        extra={"fields": fields},
    )


def _loggable_path(request: Request) -> str:
    # A job's id is a secret: it gives access to the result. Mistyped paths may hold one anywhere.
    path = re.sub(r"(/jobs/).*", r"\1...", request.path, flags=re.DOTALL | re.IGNORECASE)
    return mask_ids(path)[:200]
