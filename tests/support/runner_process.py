"""A job runner in a process of its own, which tests kill.

    local URL LOG            run the jobs of a folder, as the gateway does
    events URL LOG PORT      run the job of each pushed event, as the function in the cloud does

Each job that a run finished adds a line to LOG.
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
from clip_embeddings.jobs.store import JobOutput, JobStore
from clip_embeddings.storage.factory import open_bucket


def compute(request: dict[str, Any]) -> JobOutput:
    """Numbers that differ for each text. The text "poison" ends the process, "bad" is invalid."""
    text = request["text"]
    if text == "poison":
        os._exit(9)
    if text == "bad":
        raise ApiError(422, "text_bad", "This text is bad.")
    time.sleep(0.005)
    return JobOutput({"embedding": list(hashlib.sha256(text.encode()).digest()[:4])})


class LoggingStore(JobStore):
    """Logs the jobs that it finished."""

    def finish(self, job_id: str, output: JobOutput) -> bool:
        finished = super().finish(job_id, output)
        if finished:
            with open(sys.argv[3], "a") as log:
                log.write(f"{job_id}\n")
        return finished


def main() -> None:
    store = LoggingStore(open_bucket(sys.argv[2]))
    if sys.argv[1] == "local":
        LocalRunner(store, compute, scan_seconds=0.2).start()
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
