"""A request's whole life: find the convention, read, embed, reply; log one line whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Request, Response

from functions.embedding import embed
from functions.engine.manifest import ModelError
from functions.errors import CallerError
from functions.logs import Timings, logger, trace_field
from functions.protocols.convention import Answer, Convention, Embedded
from functions.runtime import Runtime

STATUS_PATHS = ("/", "/health", "/ready")


@dataclass(frozen=True)
class Service:
    """A function's routes. POST at `/` means POST at `root`, if there is one."""

    runtime: Runtime
    conventions: tuple[Convention, ...]
    root: str | None = None

    def paths(self) -> list[str]:
        """Every path that is served."""
        return sorted({convention.path for convention in self.conventions} | set(STATUS_PATHS))


def serve(request: Request, service: Service) -> Response:
    """Answer one request."""
    timings = Timings()
    answer: Answer | None = None
    try:
        if request.method in ("GET", "HEAD"):
            response = _status(request, service)
        else:
            # 404, 405 or 415: nothing here speaks like this client.
            convention = _find(request, service)
            # 400 or 413, before any work is done. A bad item is only noted.
            with timings.measure("parse"):
                ask = convention.parse(request, service.runtime.settings.limits)
            answer = embed(ask, service.runtime, timings)
            with timings.measure("write"):
                response = _json(convention.write(ask, answer))
    except CallerError as error:
        response = _error(error)
    except Exception:
        # What went wrong is for the log; the caller learns only that it was not their fault.
        logger.exception("%s %s failed", service.runtime.name, request.path[:200])
        response = _error(CallerError(500, "internal", "Something went wrong here; the log has the details."))
    response.headers["Server-Timing"] = timings.header()
    _log(request, response, service.runtime.name, answer, timings)
    return response


def _find(request: Request, service: Service) -> Convention:
    path = _path(request)
    if path == "/" and service.root:
        path = service.root
    here = [convention for convention in service.conventions if convention.path == path]
    if not here and path not in STATUS_PATHS:
        raise _no_such_path(service)
    if not here or request.method != "POST":
        raise CallerError(405, "method_not_allowed", f"{request.method[:20]} is not allowed here.")
    for convention in here:
        if any(_matches(request.mimetype, media) for media in convention.media):
            return convention
    accepted = ", ".join(dict.fromkeys(media for convention in here for media in convention.media))
    raise CallerError(415, "content_type_unsupported", f"Set Content-Type to one of: {accepted}.")


def _matches(mimetype: str, media: str) -> bool:
    return mimetype.startswith(media[:-1]) if media.endswith("/*") else mimetype == media


def _path(request: Request) -> str:
    return request.path.rstrip("/") or "/"


def _no_such_path(service: Service) -> CallerError:
    return CallerError(404, "route_unknown", f"No such path; there are {', '.join(service.paths())}.")


def _status(request: Request, service: Service) -> Response:
    runtime = service.runtime
    model = runtime.model.manifest.name
    path = _path(request)
    if path == "/":
        return _json({"status": f"{runtime.name} is running", "model": model, "routes": service.paths()})
    if path == "/health":
        return _json({"status": "healthy", "model_loaded": runtime.loaded(), "model": model})
    if path != "/ready":
        if path in service.paths():
            raise CallerError(405, "method_not_allowed", "Use POST here.")
        raise _no_such_path(service)
    try:
        runtime.ready.get()
    except ModelError as error:
        logger.error("not ready: %s", error)
        return _json({"status": "not ready", "model": model}, 503)
    return _json({"status": "ready", "model": model})


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    # orjson writes float32 rows straight from numpy, in the fewest digits that read back the same.
    return Response(
        orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, mimetype="application/json"
    )


def _error(error: CallerError) -> Response:
    response = _json({"error": {"code": error.code, "message": error.message}}, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 405:
        response.headers["Allow"] = "POST" if error.message == "Use POST here." else "GET, HEAD, POST"
    return response


def _log(request: Request, response: Response, name: str, answer: Answer | None, timings: Timings) -> None:
    parts = [part for part in (answer.texts, answer.images) if part] if answer else []
    failures = list(_failures(parts))
    fields: dict[str, object] = {
        "status": response.status_code,
        "items": sum(len(part.results) for part in parts),
        "failures": len(failures),
        **{f"{stage}_ms": value for stage, value in timings.milliseconds().items()},
        **trace_field(dict(request.headers)),
    }
    if failures:
        fields["codes"] = ",".join(sorted(set(failures)))
    if request.path in ("/health", "/ready") and response.status_code == 200:
        log = logger.debug
    else:
        log = logger.warning if failures else logger.info
    log("%s %s %s", name, request.method[:20], request.path[:200], extra={"fields": fields})


def _failures(parts: Iterable[Embedded]) -> Iterable[str]:
    for part in parts:
        for result in part.results:
            if isinstance(result, CallerError):
                yield result.code
