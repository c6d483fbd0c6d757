"""A request's whole life: find the convention, read, embed, reply; log one line whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from flask import Request, Response

from functions.embedding import embed
from functions.engine.gate import OverloadedError
from functions.engine.manifest import ModelError
from functions.errors import CallerError
from functions.inputs.bodies import discard
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
        return sorted({*self.posts(), *STATUS_PATHS})

    def posts(self) -> list[str]:
        """The paths that take POST, `/` aside."""
        return sorted({convention.path for convention in self.conventions})

    def at(self, path: str) -> list[Convention]:
        """The conventions that speak at `path`."""
        path = self.root if self.root and path == "/" else path
        return [convention for convention in self.conventions if convention.path == path]

    def methods(self, path: str) -> list[str]:
        """The methods that `path` takes; none if there is no such path."""
        return (["GET", "HEAD"] if path in STATUS_PATHS else []) + (["POST"] if self.at(path) else [])


def serve(request: Request, service: Service) -> Response:
    """Answer one request."""
    timings = Timings()
    answer: Answer | None = None
    request.max_content_length = service.runtime.settings.limits.request_bytes
    try:
        # 404 or 405.
        path = _route(request, service)
        if request.method in ("GET", "HEAD"):
            response = _status(path, service)
        else:
            # 415: nothing here speaks like this client.
            convention = _convention(request, service.at(path))
            # 400 or 413, before any work is done. A bad item is only noted.
            with timings.measure("parse"):
                ask = convention.parse(request, service.runtime.settings.limits)
            answer = embed(ask, service.runtime, timings)
            with timings.measure("write"):
                response = _json(convention.write(ask, answer))
    except CallerError as error:
        response = _error(error)
    except OverloadedError:
        response = _error(_overloaded())
    except Exception:
        # What went wrong is for the log; the caller learns only that it was not their fault.
        logger.exception("%s %s failed", service.runtime.name, quote(request.path[:200]))
        response = _error(CallerError(500, "internal", "Something went wrong here; the log has the details."))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(service.methods(_path(request)))
    discard(request)
    response.headers["Server-Timing"] = timings.header()
    _log(request, response, service.runtime.name, answer, timings)
    return response


def _path(request: Request) -> str:
    return request.path.rstrip("/") or "/"


def _route(request: Request, service: Service) -> str:
    """The path asked for, if it is served and takes the method."""
    path = _path(request)
    methods = service.methods(path)
    if not methods:
        raise CallerError(404, "route_unknown", f"No such path; there are {', '.join(service.paths())}.")
    if request.method not in methods:
        instead = (
            f"POST to {', '.join(service.posts())}" if request.method == "POST" else " or ".join(methods)
        )
        message = f"{request.method[:20]} is not allowed at this path; use {instead}."
        raise CallerError(405, "method_not_allowed", message)
    return path


def _convention(request: Request, conventions: Iterable[Convention]) -> Convention:
    for convention in conventions:
        if any(_matches(request.mimetype, media) for media in convention.media):
            return convention
    accepted = ", ".join(dict.fromkeys(media for convention in conventions for media in convention.media))
    given = (
        f"{request.mimetype[:100]!r} is not accepted here" if request.mimetype else "There is no Content-Type"
    )
    raise CallerError(415, "content_type_unsupported", f"{given}; set Content-Type to one of: {accepted}.")


def _matches(mimetype: str, media: str) -> bool:
    return mimetype.startswith(media[:-1]) if media.endswith("/*") else mimetype == media


def _status(path: str, service: Service) -> Response:
    runtime = service.runtime
    model = runtime.model.manifest.name
    if path == "/":
        return _json({"status": f"{runtime.name} is running", "model": model, "routes": service.paths()})
    if path == "/health":
        return _json({"status": "healthy", "model_loaded": runtime.loaded(), "model": model})
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
    return response


def _overloaded() -> CallerError:
    message = "Too many requests wait for the model; try again in a second."
    return CallerError(429, "overloaded", message, retry_after=1)


def _log(request: Request, response: Response, name: str, answer: Answer | None, timings: Timings) -> None:
    parts = [part for part in (answer.texts, answer.images) if part] if answer else []
    failures = list(_failures(parts))
    fields: dict[str, object] = {
        "status": response.status_code,
        "items": sum(len(part.results) for part in parts),
        "failures": len(failures),
        **{f"{stage}_ms": value for stage, value in timings.milliseconds().items()},
        **trace_field(request.headers),
    }
    if failures:
        fields["codes"] = ",".join(sorted(set(failures)))
    if request.path in ("/health", "/ready") and response.status_code == 200:
        log = logger.debug
    else:
        log = logger.warning if failures else logger.info
    # Quoted, so that no path can write a line of its own.
    log("%s %s %s", name, request.method[:20], quote(request.path[:200]), extra={"fields": fields})


def _failures(parts: Iterable[Embedded]) -> Iterable[str]:
    for part in parts:
        for result in part.results:
            if isinstance(result, CallerError):
                yield result.code
