"""A small server that plays the Google APIs that deploy.sh reaches through gcloud, over real HTTP.

gcloud takes it for its proxy: some commands put a region before a host's name, which would not resolve.

It keeps just enough state to answer: policies, buckets, accounts, triggers, services. Requests are recorded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support import bigquery_api, cloud_run

# Names of the APIs in gcloud's variables CLOUDSDK_API_ENDPOINT_OVERRIDES_*.
APIS = (
    "RUN",
    "EVENTARC",
    "CLOUDRESOURCEMANAGER",
    "STORAGE",
    "IAM",
    "SERVICEUSAGE",
    "FIRESTORE",
    "ARTIFACTREGISTRY",
    "CLOUDBUILD",
)
PROJECT = "my-project"
NUMBER = "123456789012"
AGENT = f"service-{NUMBER}@gs-project-accounts.iam.gserviceaccount.com"

# What a person who is logged in gets: an access token, and an identity token that expires in 2286.
ACCESS_TOKEN = "a-token"  # noqa: S105
IDENTITY_TOKEN = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"none"}', b'{"aud":"gcloud","exp":9999999999}', b"signature")
)
LOGIN_PATH = "/token"
LOGIN = {"type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": "refresh"}


@dataclass(frozen=True)
class Request:
    """What gcloud sent. `body` is parsed JSON, None if there was none."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    token: str


@dataclass
class GoogleApis:
    """The state behind the APIs. Names of buckets map to their locations."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    policies: dict[str, Any] = field(default_factory=dict)
    buckets: dict[str, Any] = field(default_factory=dict)
    accounts: set[str] = field(default_factory=set)
    triggers: dict[str, Any] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    indexes: list[Any] = field(default_factory=list)
    # Of BigQuery, by location and ID; and the scripts that it ran.
    connections: dict[str, Any] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)
    enabled: set[str] = field(default_factory=set)
    # Whether revisions that are deployed from now on start, and how they answer /ready.
    starts: bool = True
    ready: int = 200
    # Whether a request is refused.
    refuses: Callable[[Request], bool] = lambda request: False

    def environment(self, folder: Path) -> dict[str, str]:
        """What makes gcloud talk to this server only, logged in, its own files in `folder`."""
        login = folder / "login.json"
        login.write_text(json.dumps(LOGIN))
        return {
            "CLOUDSDK_CONFIG": str(folder / "gcloud"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(login),
            "CLOUDSDK_AUTH_TOKEN_HOST": f"http://oauth2.test{LOGIN_PATH}",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_PROXY_TYPE": "http",
            "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
            "CLOUDSDK_PROXY_PORT": str(self.port),
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": f"http://{api.lower()}.test/" for api in APIS},
        }

    def sent(self, method: str, path: str) -> list[Any]:
        """The bodies of the requests to paths that match the pattern `path`, in their order."""
        return [
            request.body
            for request in self.requests
            if request.method == method and re.fullmatch(path, request.path)
        ]

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and body."""
        if self.refuses(request):
            return 403, {"error": {"code": 403, "message": "not now", "status": "PERMISSION_DENIED"}}
        for method, pattern, answer in ROUTES:
            if request.method == method and (match := re.fullmatch(pattern, request.path)):
                return answer(self, request, *match.groups())
        return _missing(f"nothing plays {request.method} {request.path}")


def _missing(message: str) -> tuple[int, Any]:
    return 404, {"error": {"code": 404, "message": message, "status": "NOT_FOUND"}}


def _get_policy(apis: GoogleApis, request: Request, resource: str) -> tuple[int, Any]:
    return 200, apis.policies.setdefault(resource, {"version": 1, "etag": "BwX=", "bindings": []})


def _set_policy(apis: GoogleApis, request: Request, resource: str) -> tuple[int, Any]:
    apis.policies[resource] = request.body.get("policy", request.body)
    return 200, apis.policies[resource]


def _project(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"projectId": PROJECT, "projectNumber": NUMBER, "lifecycleState": "ACTIVE"}


def _apis(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {
        "services": [
            {"name": f"projects/{NUMBER}/services/{name}", "state": "ENABLED", "config": {"name": name}}
            for name in sorted(apis.enabled)
        ]
    }


def _accounts(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"accounts": [{"email": email} for email in sorted(apis.accounts)]}


def _new_account(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    email = f"{request.body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
    apis.accounts.add(email)
    return 200, {"email": email, "name": f"projects/{PROJECT}/serviceAccounts/{email}"}


def _bucket(apis: GoogleApis, request: Request, name: str) -> tuple[int, Any]:
    return (200, apis.buckets[name]) if name in apis.buckets else _missing("no such bucket")


def _buckets(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"kind": "storage#buckets", "items": list(apis.buckets.values())}


def _new_bucket(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    name = request.body["name"]
    apis.buckets[name] = {"kind": "storage#bucket", "id": name, **request.body}
    return 200, apis.buckets[name]


def _change_bucket(apis: GoogleApis, request: Request, name: str) -> tuple[int, Any]:
    apis.buckets[name].update(request.body)
    return 200, apis.buckets[name]


def _agent(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"kind": "storage#serviceAccount", "email_address": AGENT}


def _trigger(apis: GoogleApis, request: Request, location: str, name: str) -> tuple[int, Any]:
    trigger = apis.triggers.get(f"{location}/{name}")
    return (200, trigger) if trigger else _missing("no such trigger")


def _triggers(apis: GoogleApis, request: Request, location: str) -> tuple[int, Any]:
    return 200, {"triggers": list(apis.triggers.values())}


def _new_trigger(apis: GoogleApis, request: Request, location: str) -> tuple[int, Any]:
    name = request.query["triggerId"][0]
    path = f"projects/{PROJECT}/locations/{location}"
    apis.triggers[f"{location}/{name}"] = {**request.body, "name": f"{path}/triggers/{name}"}
    return 200, {
        "name": f"{path}/operations/1",
        "done": True,
        "response": apis.triggers[f"{location}/{name}"],
    }


def _operation(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"name": request.path, "done": True, "response": {}}


def _account(apis: GoogleApis, request: Request, email: str) -> tuple[int, Any]:
    return 200, {"email": email, "name": f"projects/{PROJECT}/serviceAccounts/{email}"}


def _repository(apis: GoogleApis, request: Request, name: str) -> tuple[int, Any]:
    return 200, {"name": name, "format": "DOCKER"}


def _upload(apis: GoogleApis, request: Request, bucket: str) -> tuple[int, Any]:
    if not isinstance(request.body, bytes):
        return 200, {}
    apis.uploads.append(request.body)
    checksum = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
    name, size = request.query["name"][0], str(len(request.body))
    return 200, {"bucket": bucket, "name": name, "size": size, "generation": "1", "md5Hash": checksum}


BUILD = {
    "id": "b1",
    "name": f"projects/{PROJECT}/locations/us-central1/builds/b1",
    "projectId": PROJECT,
    "status": "SUCCESS",
    "results": {"images": [{"name": "image", "digest": "sha256:0"}]},
}


def _build(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata"
    operation = {"name": "operations/b1", "metadata": {"@type": kind, "build": BUILD}}
    return 200, {"buildOperation": operation, "baseImageUri": "base"}


def _built(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"name": request.path, "done": True, "response": BUILD}


def _new_service(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return _deploy(apis, request, request.body["metadata"]["name"])


def _deploy(apis: GoogleApis, request: Request, name: str) -> tuple[int, Any]:
    tagged = f"http://127.0.0.1:{apis.port}/revisions"
    apis.services[name] = cloud_run.deployed(
        request.body, apis.services.get(name), tagged, starts=apis.starts, ready=apis.ready
    )
    return 200, apis.services[name]


def _ready(apis: GoogleApis, request: Request, tag: str, name: str) -> tuple[int, Any]:
    """What a revision of a private function answers at the address of its tag."""
    if request.token != IDENTITY_TOKEN:
        return 403, {}
    return cloud_run.readiness(apis.services[name], tag), {}


def _token(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    tokens = {"access_token": ACCESS_TOKEN, "id_token": IDENTITY_TOKEN}
    return 200, {**tokens, "expires_in": 3600, "token_type": "Bearer"}


def _services(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "ServiceList",
        "items": list(apis.services.values()),
    }


def _service(apis: GoogleApis, request: Request, name: str) -> tuple[int, Any]:
    return (200, apis.services[name]) if name in apis.services else _missing("no such service")


def _indexes(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"indexes": apis.indexes}


def _no_jobs(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"apiVersion": "run.googleapis.com/v1", "kind": "JobList", "items": []}


EmbedResult = Callable[..., tuple[int, Any]]
ROUTES: tuple[tuple[str, str, EmbedResult], ...] = (
    ("POST", r"/v\d/(.*):getIamPolicy", _get_policy),
    ("GET", r"/v\d/(.*):getIamPolicy", _get_policy),
    ("POST", r"/v\d/(.*):setIamPolicy", _set_policy),
    ("GET", r"(?:/storage/v1)?/(b/[^/]+)/iam", _get_policy),
    ("PUT", r"(?:/storage/v1)?/(b/[^/]+)/iam", _set_policy),
    ("GET", rf"/v\d/projects/{PROJECT}", _project),
    ("GET", rf"/v\d/projects/{PROJECT}/services", _apis),
    ("GET", rf"/v\d/projects/{PROJECT}/serviceAccounts", _accounts),
    ("POST", rf"/v\d/projects/{PROJECT}/serviceAccounts", _new_account),
    ("GET", rf"(?:/storage/v1)?/projects/{PROJECT}/serviceAccount", _agent),
    ("GET", r"(?:/storage/v1)?/b/([^/]+)", _bucket),
    ("GET", r"(?:/storage/v1)?/b", _buckets),
    ("POST", r"(?:/storage/v1)?/b", _new_bucket),
    ("PATCH", r"(?:/storage/v1)?/b/([^/]+)", _change_bucket),
    ("GET", rf"/v\d/projects/{PROJECT}/locations/([^/]+)/triggers/([^/]+)", _trigger),
    ("GET", rf"/v\d/projects/{PROJECT}/locations/([^/]+)/triggers", _triggers),
    ("POST", rf"/v\d/projects/{PROJECT}/locations/([^/]+)/triggers", _new_trigger),
    ("GET", r"/v\d/projects/-/serviceAccounts/([^/]+)", _account),
    ("GET", r"/v\d/.*/operations/b1", _built),
    ("GET", r"/v\d/.*/operations/.*", _operation),
    ("GET", r"/v\d/(projects/[^/]+/locations/[^/]+/repositories/[^/]+)", _repository),
    ("POST", r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o", _upload),
    ("PUT", r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o", _upload),
    ("POST", r"/v\d/.*/builds:submit", _build),
    ("GET", rf"/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services", _services),
    ("GET", rf"/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services/([^/]+)", _service),
    ("POST", rf"/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services", _new_service),
    ("PUT", rf"/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services/([^/]+)", _deploy),
    ("GET", r"/revisions/([^/]+)---([^/]+)/ready", _ready),
    ("POST", LOGIN_PATH, _token),
    *bigquery_api.ROUTES,
    ("GET", rf"/v1/projects/{PROJECT}/databases/[^/]+/collectionGroups/-/indexes", _indexes),
    ("GET", rf"/apis/run.googleapis.com/v1/namespaces/{PROJECT}/jobs", _no_jobs),
)


@contextmanager
def playing() -> Iterator[GoogleApis]:
    """The APIs on a free loopback port, until the block ends."""
    apis = GoogleApis()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(
                self.command,
                unquote(parts.path),
                parse_qs(parts.query),
                json.loads(raw) if raw[:1] == b"{" else raw or None,
                self.headers.get("Authorization", "").removeprefix("Bearer "),
            )
            # Logging in changes nothing, and happens whenever gcloud is called.
            if request.path != LOGIN_PATH:
                apis.requests.append(request)
            status, body = apis.answer(request)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            # Where the bytes of a resumable upload go.
            self.send_header("Location", f"{self.path}&upload_id=1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_CONNECT(self) -> None:
            """Tunnel to this server itself, without TLS, which bq asks for."""
            self.send_response(200)
            self.end_headers()
            self.close_connection = False

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    apis.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield apis
    finally:
        server.shutdown()
        server.server_close()
