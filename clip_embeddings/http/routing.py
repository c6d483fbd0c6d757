"""Routes, and how a request finds its own: by path and method with werkzeug's map, then by content type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Request, Response
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import read_body
from clip_embeddings.logs import Timings
from clip_embeddings.protocols.base import NATIVE_ERRORS, Body, ErrorFormat, validate
from clip_embeddings.runtime import Runtime


@dataclass(frozen=True)
class Route:
    """One operation: `handler` returns what becomes the JSON reply, or a Response of its own."""

    method: str
    # As in OpenAPI: {name} stands for one segment.
    path: str
    operation_id: str
    summary: str
    handler: Callable[[RequestContext], Any]
    # A struct, a type or JSON Schema; None for an empty reply.
    reply: Any
    body: Body | None = None
    # Whether `model` and `normalize` may come in the query string.
    embedding_options: bool = False
    # A struct whose fields come in the query string.
    query: Any = None
    # Content type of the reply.
    reply_media: str = "application/json"
    # What a browser gets instead. It holds no data, so it needs no API key.
    page: Callable[[Request], Response] | None = None
    # Statuses of the caller's errors.
    error_statuses: tuple[int, ...] = ()
    errors: ErrorFormat = NATIVE_ERRORS
    # Public routes answer without the API key.
    public: bool = False
    tag: str = "embeddings"

    def accepts(self, mimetype: str) -> bool:
        """Whether a body of this content type is one for this route."""
        if self.body is None:
            return True
        return any(
            mimetype.startswith(media[:-1]) if media.endswith("/*") else mimetype == media
            for media in self.body.media
        )


@dataclass(frozen=True)
class RequestContext:
    """One request, matched with its route. `path_params` are the values of the path's `{names}`."""

    request: Request
    route: Route
    path_params: Mapping[str, str]
    runtime: Runtime
    timings: Timings

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return self.runtime.settings.limits

    def read_body(self) -> Any:
        """The body as the route's `Body` describes it. Raises ApiError."""
        assert self.route.body is not None
        return read_body(self.request, self.route.body, self.limits)

    def read_query(self) -> Any:
        """The query string as the route's struct. Raises ApiError 400."""
        return validate(self.request.args.to_dict(), self.route.query, where="query string")


class Router:
    """The routes of a function. Several may share path and method and differ in content type."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        # Answered without the API key.
        self.public_paths = frozenset(route.path for route in routes if route.public)
        # By path and method.
        self._alternatives: dict[tuple[str, str], list[Route]] = {}
        for route in routes:
            self._alternatives.setdefault((route.path, route.method), []).append(route)
        rules = [
            Rule(re.sub(r"\{(\w+)\}", r"<\1>", path), methods=[method], endpoint=(path, method))
            for path, method in self._alternatives
        ]
        self._adapter = Map(rules, merge_slashes=False).bind("")

    def match(self, request: Request, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route for `request`, and the values of the path's `{names}`.

        Raises:
            ApiError: 404, 405 or 415. The message of the last two says what is accepted.
        """
        try:
            key, path_params = self._adapter.match(path, request.method)
        except NotFound:
            paths = ", ".join(sorted({route.path for route in self.routes}))
            raise ApiError(404, "route_unknown", f"No such path; there are {paths}.") from None
        except MethodNotAllowed:
            raise self._wrong_method(request, path) from None
        for route in self._alternatives[key]:
            if route.accepts(request.mimetype):
                return route, path_params
        raise _wrong_content_type(request, self._alternatives[key])

    def methods(self, path: str) -> list[str]:
        """The methods that `path` accepts, HEAD and OPTIONS included; none if there is no such path."""
        methods = set(self._adapter.allowed_methods(path))
        return sorted(methods | {"OPTIONS"}) if methods else []

    def page(self, path: str) -> Callable[[Request], Response] | None:
        """What a browser gets at `path`, if that is a page."""
        try:
            key, _ = self._adapter.match(path, "GET")
        except (NotFound, MethodNotAllowed):
            return None
        return next((route.page for route in self._alternatives[key] if route.page), None)

    def error_format(self, path: str) -> ErrorFormat:
        """The error format at `path`, which need not exist: that of routes with the same first segment."""
        head = path.split("/")[1]
        return next(
            (route.errors for route in self.routes if route.path.split("/")[1] == head), NATIVE_ERRORS
        )

    def _wrong_method(self, request: Request, path: str) -> ApiError:
        instead = " or ".join(method for method in self.methods(path) if method != "OPTIONS")
        if request.method == "POST":
            paths = sorted({route.path for route in self.routes if route.method == "POST"})
            instead += f", or POST to {', '.join(paths)}"
        message = f"{request.method[:20]} is not allowed at this path; use {instead}."
        return ApiError(405, "method_not_allowed", message)


def wants_html(request: Request) -> bool:
    """Whether the client would rather read HTML than JSON."""
    if request.method not in ("GET", "HEAD"):
        return False
    return request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"


def _wrong_content_type(request: Request, routes: Sequence[Route]) -> ApiError:
    accepted = ", ".join(_media(routes))
    given = (
        f"{request.mimetype[:100]!r} is not accepted here" if request.mimetype else "There is no Content-Type"
    )
    message = f"{given}; set Content-Type to one of: {accepted}."
    return ApiError(415, "content_type_unsupported", message)


def _media(routes: Iterable[Route]) -> list[str]:
    return list(dict.fromkeys(media for route in routes if route.body for media in route.body.media))
