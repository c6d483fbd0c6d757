"""A request's whole life: find its route, check the key, answer; log one line whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import orjson
from flask import Request, Response, current_app, has_app_context, request

from clip_embeddings.errors import ApiError
from clip_embeddings.http.access import allow_origin, check_key, is_preflight, preflight
from clip_embeddings.http.bodies import drain_body, set_read_timeout
from clip_embeddings.http.routing import (
    RequestContext,
    Route,
    embedding_route,
    errors_at,
    find,
    methods,
    page_at,
)
from clip_embeddings.http.status import status_routes
from clip_embeddings.logs import Timings, logger, trace_field
from clip_embeddings.protocols.base import Endpoint, Errors
from clip_embeddings.runtime import Runtime
from clip_embeddings.semaphore import OverloadedError
from clip_embeddings.storage.types import StorageError, TransientError


@dataclass(frozen=True)
class Service:
    """A function: what it holds and its routes."""

    runtime: Runtime
    routes: tuple[Route, ...] = field(repr=False)


def make_service(
    runtime: Runtime,
    conventions: tuple[Endpoint, ...],
    routes: tuple[Route, ...] = (),
    root: str | None = None,
) -> Service:
    """A function that answers `conventions` and further `routes`, and tells about itself.

    POST at `/` means POST at `root`, if there is one.
    """
    own = [*map(embedding_route, conventions), *routes]
    own += [
        replace(route, path="/", operation=f"{route.operation}_root")
        for route in own
        if route.path == root and route.method == "POST"
    ]
    service = Service(runtime, status_routes(own))
    if has_app_context():
        # What the framework itself would answer in HTML: a path with a line break in it, /favicon.ico.
        current_app.register_error_handler(404, lambda _: serve(request, service))
    return service


def serve(request: Request, service: Service) -> Response:
    """Answer one request."""
    timings = Timings()
    settings = service.runtime.settings
    request.max_content_length = settings.limits.request_bytes
    set_read_timeout(request, settings.limits.body_timeout)
    path = request.path.rstrip("/") or "/"
    errors = errors_at(service.routes, path)
    try:
        if is_preflight(request):
            response = preflight(", ".join(methods(service.routes, path)), settings.origins, request)
        else:
            reply = _answer(request, service, path, timings)
            with timings.measure("write"):
                response = reply if isinstance(reply, Response) else _json(reply)
    except ApiError as error:
        response = _error(error, errors)
    except OverloadedError:
        response = _error(_overloaded(), errors)
    except TransientError:
        response = _error(_storage_away(), errors)
    except StorageError as error:
        # Not passing: a person must act, and the sentence says how.
        logger.error("%s %s failed: %s", service.runtime.name, quote(request.path[:200]), error)
        response = _error(_storage_broken(), errors)
    except Exception:
        # What went wrong is for the log; the caller learns only that it was not their fault.
        logger.exception("%s %s failed", service.runtime.name, quote(request.path[:200]))
        response = _error(
            ApiError(500, "internal", "Something went wrong here; the log has the details."), errors
        )
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(methods(service.routes, path))
    drain_body(request)
    set_read_timeout(request, None)
    allow_origin(response, settings.origins, request.headers.get("Origin", ""))
    if any(route.page and route.match(path) is not None for route in service.routes):
        response.vary.add("Accept")
    response.headers["Server-Timing"] = timings.header()
    _log(request, response, service.runtime.name, timings)
    return response


def _answer(request: Request, service: Service, path: str, timings: Timings) -> Any:
    """What the route answers. Without the API key nobody learns which paths there are, pages aside."""
    if page := page_at(request, service.routes, path):
        return page
    if path != "/health":
        check_key(request, service.runtime.settings.api_key)
    allowed = methods(service.routes, path)
    if request.method == "OPTIONS" and allowed:
        return Response(status=204, headers={"Allow": ", ".join(allowed)})
    route, arguments = find(request, service.routes, path)
    return route.answer(RequestContext(request, service.runtime, timings, arguments))


def _json(body: Any, status: int = 200) -> Response:
    # orjson writes float32 rows straight from numpy, in the fewest digits that read back the same.
    data = b"" if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, status, mimetype="application/json")


def _error(error: ApiError, errors: Errors) -> Response:
    response = _json(errors.write(error), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _overloaded() -> ApiError:
    message = "Too many requests wait for the model; try again in a second."
    return ApiError(429, "overloaded", message, retry_after=1)


def _storage_away() -> ApiError:
    message = "The bucket does not answer now; try again in a few seconds."
    return ApiError(503, "storage_unavailable", message, retry_after=5)


def _storage_broken() -> ApiError:
    return ApiError(500, "storage_failed", "What this deployment keeps cannot be used; the log says why.")


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
    # Asked for by the dozen, and of no interest while all goes well.
    if request.path in ("/health", "/ready", "/thumbnail") and response.status_code in (200, 304):
        log = logger.debug
    else:
        log = logger.warning if timings.failures else logger.info
    # Quoted, so that no path can write a line of its own.
    log("%s %s %s", name, request.method[:20], quote(_shown(request)), extra={"fields": fields})


def _shown(request: Request) -> str:
    # A job's id is a secret: whoever has it reads the result.
    head, slash, _ = request.path[:200].partition("/jobs/")
    return head + ("/jobs/..." if slash else "")
