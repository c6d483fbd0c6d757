"""An empty function. Its start-up time is the lower bound for every function."""

import functions_framework
from flask import Request


@functions_framework.http
def empty(request: Request) -> str:
    """Answer every request."""
    return "ok"
