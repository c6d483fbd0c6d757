"""Routes, and how a request finds its own: by path and method with werkzeug's map, then by its body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec
from flask import Request, Response
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import JsonReader, read_body
from clip_embeddings.logs import Timings
from clip_embeddings.protocols.base import NATIVE_ERRORS, Body, ErrorFormat
from clip_embeddings.protocols.items import validate
from clip_embeddings.runtime import Runtime
from clip_embeddings.server.body import is_connected


class Reply(msgspec.Struct, frozen=True):
    """A reply with headers or another status than 200. `body` becomes JSON; None is an empty body."""

    body: Any
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    status: int = 200
    media: str = "application/json"


class Route(msgspec.Struct, frozen=True):
    """One operation: `handler` returns what becomes the JSON reply, a Reply, or a Response of its own."""

    method: str
    # As in OpenAPI: {name} stands for one segment. {name:path} stands for one or several.
    path: str
    operation_id: str
    summary: str
    handler: Callable[[RequestContext], Any]
    # A struct, a type or JSON Schema; None for an empty reply.
    reply: Any
    body: Body | None = None
    # Fields of a JSON body, any of which selects this route where several share path, method and content
    # type. `a.b` is the field b of the object a.
    keys: tuple[str, ...] = ()
    # Of `model` and `normalize`, those that may come in the query string.
    embedding_options: tuple[str, ...] = ()
    # A struct whose fields come in the query string.
    query: Any = None
    # Content type of the reply.
    reply_media: str = "application/json"
    # Status of the reply.
    status: int = 200
    # Whether the reply has the headers of `provenance`.
    provenance: bool = False
    # What a browser gets instead. It holds no data, so it needs no API key.
    page: Callable[[Request], Response] | None = None
    # Statuses of the caller's errors.
    error_statuses: tuple[int, ...] = ()
    errors: ErrorFormat = NATIVE_ERRORS
    # Public routes answer without the API key.
    public: bool = False
    tag: str = "embeddings"
    # A request body that is answered with `status`.
    example: Any = None

    @property
    def documented_path(self) -> str:
        """The path as in OpenAPI, which has no `{name:path}`."""
        return re.sub(r"\{(\w+):\w+\}", r"{\1}", self.path)

    def accepts(self, mimetype: str) -> bool:
        """Whether a body of this content type is one for this route."""
        if self.body is None:
            return True
        return any(
            mimetype.startswith(media[:-1]) if media.endswith("/*") else mimetype == media
            for media in self.body.media
        )


class RequestContext(msgspec.Struct, frozen=True):
    """One request, matched with its route. `path_params` are the values of the path's `{names}`."""

    request: Request
    route: Route
    path_params: Mapping[str, str]
    runtime: Runtime
    timings: Timings
    body: JsonReader

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return self.runtime.settings.limits

    def read_body(self) -> Any:
        """The body as the route's `Body` describes it. Raises ApiError."""
        assert self.route.body is not None
        return read_body(self.request, self.route.body, self.limits, self.body)

    def check_connected(self) -> None:
        """Raise ApiError 499 if the client has closed the connection, so that nobody reads the reply."""
        if not is_connected(self.request.environ):
            # nginx's status for it: https://nginx.org/en/docs/dev/development_guide.html#http_codes
            raise ApiError(499, "client_gone", "The client closed the connection before the reply.")

    def read_query(self) -> Any:
        """The query string as the route's struct. Raises ApiError 400."""
        return validate(self.request.args.to_dict(), self.route.query, where="query string")


class Router:
    """The routes of a function. Several may share path and method and differ in content type or body key."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._public = frozenset((route.method, route.path) for route in routes if route.public)
        # By path and method.
        self._alternatives: dict[tuple[str, str], list[Route]] = {}
        for route in routes:
            self._alternatives.setdefault((route.path, route.method), []).append(route)
        rules = [
            Rule(_werkzeug_path(path), methods=[method], endpoint=(path, method))
            for path, method in self._alternatives
        ]
        self._adapter = Map(rules, merge_slashes=False).bind("")

    def find(self, request: Request, path: str, body: JsonReader) -> tuple[Route, Mapping[str, str]] | None:
        """The route that is certainly meant, and the values of the path's `{names}`; else None."""
        try:
            alternatives, path_params = self._at(path, request.method)
        except (NotFound, MethodNotAllowed):
            return None
        for route in alternatives:
            if route.accepts(request.mimetype) and _has_key(route, body):
                return route, path_params
        return None

    def match(self, request: Request, path: str, body: JsonReader) -> tuple[Route, Mapping[str, str]]:
        """The route for `request`: the one that is certainly meant, else the one that explains best what is
        wrong.

        Raises:
            ApiError: 404, 405 or 415, whose messages say what is accepted; 400 for a body that is needed to
                select the route and is not JSON.
        """
        try:
            alternatives, path_params = self._at(path, request.method)
        except NotFound:
            paths = ", ".join(sorted({route.documented_path for route in self.routes}))
            raise ApiError(404, "route_unknown", f"No such path; there are {paths}.") from None
        except MethodNotAllowed:
            raise self._wrong_method(request, path) from None
        accepting = [route for route in alternatives if route.accepts(request.mimetype)]
        if not accepting:
            raise _wrong_content_type(request, alternatives)
        selected = next((route for route in accepting if _has_key(route, body)), accepting[0])
        return selected, path_params

    def is_public(self, method: str, path: str) -> bool:
        """Whether `method` is answered at `path` without the API key."""
        return ("GET" if method == "HEAD" else method, path) in self._public

    def methods(self, path: str) -> list[str]:
        """The methods that `path` accepts, HEAD and OPTIONS included; none if there is no such path."""
        methods = set(self._adapter.allowed_methods(path))
        return sorted(methods | {"OPTIONS"}) if methods else []

    def page(self, path: str) -> Callable[[Request], Response] | None:
        """What a browser gets at `path`, if that is a page."""
        try:
            alternatives, _ = self._at(path, "GET")
        except (NotFound, MethodNotAllowed):
            return None
        return next((route.page for route in alternatives if route.page), None)

    def error_format(self, request: Request, path: str) -> ErrorFormat:
        """How errors are written where no route was selected.

        As by the routes at `path`, those that accept the content type first. At an unknown path, as by the
        route that shares most segments with it, and if possible the method.
        """
        for method in (request.method, *self.methods(path)):
            try:
                alternatives, _ = self._at(path, method)
            except (NotFound, MethodNotAllowed):
                continue
            accepting = [route for route in alternatives if route.accepts(request.mimetype)]
            return (accepting or alternatives)[0].errors

        def nearness(route: Route) -> tuple[int, bool, bool, int]:
            shared, length = _shared_segments(route.path, path), route.path.count("/")
            # A route in the same folder, else the shortest, which stands for most of what is below it.
            sibling = length == path.count("/") == shared + 1
            return shared, route.method == request.method, sibling, -length

        nearest = max(self.routes, key=nearness)
        return nearest.errors if _shared_segments(nearest.path, path) else NATIVE_ERRORS

    def _at(self, path: str, method: str) -> tuple[list[Route], Mapping[str, str]]:
        key, path_params = self._adapter.match(path, method)
        return self._alternatives[key], path_params

    def _wrong_method(self, request: Request, path: str) -> ApiError:
        instead = " or ".join(method for method in self.methods(path) if method != "OPTIONS")
        if request.method == "POST":
            paths = sorted({route.documented_path for route in self.routes if route.method == "POST"})
            instead += f", or POST to {', '.join(paths)}"
        message = f"{request.method[:20]} is not allowed at this path; use {instead}."
        return ApiError(405, "method_not_allowed", message)


def replace_routes(routes: Iterable[Route], replacements: Sequence[Route]) -> list[Route]:
    """`replacements`, and those of `routes` whose path and method they leave free."""
    taken = {(route.path, route.method) for route in replacements}
    return [*replacements, *(route for route in routes if (route.path, route.method) not in taken)]


def _shared_segments(one: str, other: str) -> int:
    """How many segments two paths have in common from their start."""
    pairs = zip(one.split("/")[1:], other.split("/")[1:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _has_key(route: Route, body: JsonReader) -> bool:
    """Whether the body has a key that selects the route, if the route needs one."""
    return not route.keys or any(_holds(body.get(), key) for key in route.keys)


def _holds(value: object, key: str) -> bool:
    """Whether a JSON object has the field `key`; for `a.b`, whether its field a is an object that has b."""
    name, _, rest = key.partition(".")
    return isinstance(value, Mapping) and name in value and (not rest or _holds(value[name], rest))


def wants_html(request: Request) -> bool:
    """Whether the client would rather read HTML than JSON."""
    if request.method not in ("GET", "HEAD"):
        return False
    return request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"


def _werkzeug_path(path: str) -> str:
    """`/v1/models/{id:path}` -> `/v1/models/<path:id>`."""
    return re.sub(r"\{(\w+)(?::(\w+))?\}", lambda m: f"<{m[2]}:{m[1]}>" if m[2] else f"<{m[1]}>", path)


def _wrong_content_type(request: Request, routes: Sequence[Route]) -> ApiError:
    accepted = ", ".join(_media(routes))
    given = (
        f"{request.mimetype[:100]!r} is not accepted here" if request.mimetype else "There is no Content-Type"
    )
    message = f"{given}; set Content-Type to one of: {accepted}."
    return ApiError(415, "content_type_unsupported", message)


def _media(routes: Iterable[Route]) -> list[str]:
    media = (media for route in routes if route.body for media in route.body.media)
    return list(dict.fromkeys(name for name in media if name))
