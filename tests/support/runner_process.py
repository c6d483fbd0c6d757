"""A runner in a process of its own, to be killed.

    local URL LOG            run the jobs of a folder, as the gateway does
    events URL LOG PORT      run the job of each pushed event, as the function in the cloud does

LOG gets a line for each job that a run finished.
"""

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clip_embeddings.errors import ApiError
from clip_embeddings.jobs.runner import LocalRunner, handle_event
from clip_embeddings.jobs.store import JobStore
from clip_embeddings.storage.factory import open_bucket


def compute(request: dict[str, Any]) -> dict[str, Any]:
    """A few numbers that only this text has; some texts are trouble."""
    text = request["text"]
    if text == "poison":
        os._exit(9)
    if text == "bad":
        raise ApiError(422, "text_bad", "This text is bad.")
    time.sleep(0.005)
    return {"embedding": list(hashlib.sha256(text.encode()).digest()[:4])}


class Noting(JobStore):
    """Notes what it finished."""

    def finish(self, job: str, result: object) -> bool:
        ours = super().finish(job, result)
        if ours:
            with open(sys.argv[3], "a") as log:
                log.write(f"{job}\n")
        return ours


def main() -> None:
    store = Noting(open_bucket(sys.argv[2]))
    if sys.argv[1] == "local":
        LocalRunner(store, compute, look_seconds=0.2).start()
        print("ready", flush=True)
        threading.Event().wait()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            handle_event(event["bucket"], event["name"], store, compute)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[4])), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
