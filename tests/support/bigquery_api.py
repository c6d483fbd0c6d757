"""The part of BigQuery's APIs that `bq` needs: discovery documents, connections, queries. See google_apis."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.google_apis import GoogleApis, Request

BQ = shutil.which("bq")
needs_bq = pytest.mark.skipif(BQ is None, reason="bq is not installed")

CONNECTION_ACCOUNT = "bqcx-123456789012-a1b2@gcp-sa-bigquery-condel.iam.gserviceaccount.com"
NOT_FOUND = {"error": {"code": 404, "message": "no such connection", "errors": [{"reason": "notFound"}]}}


def environment(apis: GoogleApis, folder: Path) -> dict[str, str]:
    """What makes bq talk to `apis`, logged in with a file of an access token, its own files in `folder`."""
    settings, token = folder / "bigqueryrc", folder / "access-token"
    settings.write_text(f"api = http://127.0.0.1:{apis.port}\n")
    token.write_text("a-token")
    return {"BIGQUERYRC": str(settings), "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token)}


def _discovery(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    """The API's description: that of BigQuery from the SDK, which has none for connections."""
    document = _CONNECTIONS
    if request.query["version"] == ["v2"]:
        shipped = Path(BQ or "").resolve().parents[1] / "platform/bq/discovery_next/bigquery.json"
        document = json.loads(shipped.read_text())
    root = f"http://127.0.0.1:{apis.port}/"
    path = document["servicePath"]
    return 200, {**document, "rootUrl": root, "baseUrl": root + path, "basePath": f"/{path}"}


def _connection(apis: GoogleApis, request: Request, location: str, name: str) -> tuple[int, Any]:
    connection = apis.connections.get(f"{location}/{name}")
    return (200, connection) if connection else (404, NOT_FOUND)


def _new_connection(apis: GoogleApis, request: Request, location: str) -> tuple[int, Any]:
    name = request.query["connectionId"][0]
    apis.connections[f"{location}/{name}"] = {
        "name": f"projects/123456789012/locations/{location}/connections/{name}",
        "cloudResource": {"serviceAccountId": CONNECTION_ACCOUNT},
    }
    return 200, apis.connections[f"{location}/{name}"]


def _removed(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {}


def _new_job(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    apis.scripts.append(request.body["configuration"]["query"]["query"])
    statistics = {"query": {"statementType": "SCRIPT"}, "numChildJobs": "0"}
    return 200, {**request.body, "status": {"state": "DONE"}, "statistics": statistics}


def _child_jobs(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"kind": "bigquery#jobList", "jobs": []}


def _no_rows(apis: GoogleApis, request: Request) -> tuple[int, Any]:
    return 200, {"kind": "bigquery#getQueryResultsResponse", "jobComplete": True, "totalRows": "0"}


def _method(name: str, method: str, path: str, **query: Any) -> Any:
    (parent,) = (word for word in ("name", "parent") if f"{{+{word}}}" in path)
    in_path = {"type": "string", "location": "path", "required": True, "pattern": "^projects/.*$"}
    return {
        "id": f"bigqueryconnection.projects.locations.connections.{name}",
        "httpMethod": method,
        "path": path,
        "parameters": {parent: in_path, **query},
        "parameterOrder": [parent],
        "response": {"$ref": "Connection"},
        **({"request": {"$ref": "Connection"}} if method == "POST" else {}),
    }


_CONNECTIONS: dict[str, Any] = {
    "kind": "discovery#restDescription",
    "name": "bigqueryconnection",
    "version": "v1",
    "id": "bigqueryconnection:v1",
    "protocol": "rest",
    "servicePath": "",
    "schemas": {"Connection": {"id": "Connection", "type": "object", "properties": {}}},
    "parameters": {"alt": {"type": "string", "location": "query", "default": "json"}},
    "resources": {
        "projects": {
            "resources": {
                "locations": {
                    "resources": {
                        "connections": {
                            "methods": {
                                "get": _method("get", "GET", "v1/{+name}"),
                                "delete": _method("delete", "DELETE", "v1/{+name}"),
                                "create": _method(
                                    "create",
                                    "POST",
                                    "v1/{+parent}/connections",
                                    connectionId={"type": "string", "location": "query"},
                                ),
                            }
                        }
                    }
                }
            }
        }
    },
}

ROUTES: tuple[tuple[str, str, Callable[..., tuple[int, Any]]], ...] = (
    ("GET", r"/\$discovery/rest", _discovery),
    ("GET", r"/v1/projects/[^/]+/locations/([^/]+)/connections/([^/]+)", _connection),
    ("POST", r"/v1/projects/[^/]+/locations/([^/]+)/connections", _new_connection),
    ("DELETE", r"/v1/projects/[^/]+/locations/[^/]+/connections/[^/]+", _removed),
    ("DELETE", r"/bigquery/v2/projects/[^/]+/datasets/[^/]+", _removed),
    ("POST", r"/bigquery/v2/projects/[^/]+/jobs", _new_job),
    ("GET", r"/bigquery/v2/projects/[^/]+/jobs", _child_jobs),
    ("GET", r"/bigquery/v2/projects/[^/]+/queries/[^/]+", _no_rows),
)
