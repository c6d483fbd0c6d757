"""Routes: what is answered where, by whom, and how it is documented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Request, Response

from clip_embeddings.embedding import embed
from clip_embeddings.errors import ApiError
from clip_embeddings.logs import Timings
from clip_embeddings.protocols.base import NATIVE_ERRORS, Body, Endpoint, Errors
from clip_embeddings.protocols.options import with_query
from clip_embeddings.runtime import Runtime


@dataclass(frozen=True)
class RequestContext:
    """One request on its way. `arguments` are what the path's `{names}` stand for."""

    request: Request
    runtime: Runtime
    timings: Timings
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """One operation: `answer` returns what becomes the JSON reply, or a Response of its own."""

    method: str
    # As in OpenAPI: {name} stands for one segment.
    path: str
    operation: str
    summary: str
    answer: Callable[[RequestContext], Any]
    # A struct, a type or JSON Schema; None for an empty reply.
    reply: Any
    body: Body | None = None
    # Whether `model` and `normalize` may come in the query string.
    query: bool = False
    # A struct: its fields come in the query string.
    parameters: Any = None
    # Of the reply.
    media: str = "application/json"
    # What a browser gets instead. It holds no data, so it needs no API key.
    page: Callable[[Request], Response] | None = None
    # The statuses of the caller's faults.
    faults: tuple[int, ...] = ()
    errors: Errors = NATIVE_ERRORS
    # Open routes answer without the API key.
    open: bool = False
    tag: str = field(default="embeddings")

    def match(self, path: str) -> Mapping[str, str] | None:
        """The arguments in `path`, or None if it is another one."""
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), path)
        return found.groupdict() if found else None

    def takes(self, mimetype: str) -> bool:
        """Whether a body of this content type is one for this route."""
        if self.body is None:
            return True
        return any(
            mimetype.startswith(media[:-1]) if media.endswith("/*") else mimetype == media
            for media in self.body.media
        )


def embedding_route(convention: Endpoint) -> Route:
    """The route that answers a convention: parse, embed, write."""

    def answer(call: RequestContext) -> Any:
        # 400 or 413, before any work is done. A bad item is only noted.
        with call.timings.measure("parse"):
            ask = convention.parse(call.request, call.runtime.settings.limits)
            ask = with_query(ask, call.request.args)
        answered = embed(ask, call.runtime, call.timings, convention.protocol)
        return convention.write(ask, answered)

    return Route(
        method="POST",
        path=convention.path,
        operation=convention.operation,
        summary=convention.summary,
        answer=answer,
        reply=convention.reply,
        body=convention.body,
        query=True,
        faults=(400, 404, 408, 413, 415, 422, 429),
    )


def find(request: Request, routes: Sequence[Route], path: str) -> tuple[Route, Mapping[str, str]]:
    """The route for `request`.

    Raises:
        CallerError: 404, 405 or 415. The last two say what would do.
    """
    here = [(route, found) for route in routes if (found := route.match(path)) is not None]
    if not here:
        shown = ", ".join(sorted({route.path for route in routes}))
        raise ApiError(404, "route_unknown", f"No such path; there are {shown}.")
    method = "GET" if request.method == "HEAD" else request.method
    meant = [(route, found) for route, found in here if route.method == method]
    if not meant:
        raise _wrong_method(request, routes, path)
    for route, found in meant:
        if route.takes(request.mimetype):
            return route, found
    accepted = ", ".join(_media(route for route, _ in meant))
    given = (
        f"{request.mimetype[:100]!r} is not accepted here" if request.mimetype else "There is no Content-Type"
    )
    raise ApiError(415, "content_type_unsupported", f"{given}; set Content-Type to one of: {accepted}.")


def page_at(request: Request, routes: Iterable[Route], path: str) -> Response | None:
    """The page at `path`, if there is one and the client would rather read HTML than JSON."""
    if request.method not in ("GET", "HEAD") or not _wants_html(request):
        return None
    return next(
        (route.page(request) for route in routes if route.page and route.match(path) is not None), None
    )


def _wants_html(request: Request) -> bool:
    return request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"


def errors_at(routes: Sequence[Route], path: str) -> Errors:
    """How errors are worded at `path`, whether or not there is such a path: as its neighbours do."""
    head = path.split("/")[1]
    return next((route.errors for route in routes if route.path.split("/")[1] == head), NATIVE_ERRORS)


def methods(routes: Iterable[Route], path: str) -> list[str]:
    """The methods that `path` takes, HEAD and OPTIONS included; none if there is no such path."""
    found = {route.method for route in routes if route.match(path) is not None}
    return sorted(found | ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set()))


def _wrong_method(request: Request, routes: Sequence[Route], path: str) -> ApiError:
    allowed = [method for method in methods(routes, path) if method != "OPTIONS"]
    instead = " or ".join(allowed)
    if request.method == "POST":
        posts = sorted({route.path for route in routes if route.method == "POST"})
        instead += f", or POST to {', '.join(posts)}"
    return ApiError(
        405, "method_not_allowed", f"{request.method[:20]} is not allowed at this path; use {instead}."
    )


def _media(routes: Iterable[Route]) -> list[str]:
    return list(dict.fromkeys(media for route in routes if route.body for media in route.body.media))
