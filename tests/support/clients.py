"""Packages of other projects that ask for vectors. Each runs unmodified, in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.serving import KEY, ROOT

SCRIPTS = ROOT / "tests" / "clients" / "scripts"
NODE = ROOT / "build" / "clients"
PICTURES = ROOT / "model_cache" / "demo" / "pictures"

# What docs/clients.md calls the gateway and its key.
PAGE_URL = "http://localhost:8080"
PAGE_KEY = "YOUR_KEY"

# The picture of the same place belongs to the text.
TEXTS = ("a birthday cake", "a fire engine")
FILES = (PICTURES / "birthday-cake.png", PICTURES / "fire-engine.png")


@dataclass(frozen=True)
class Client:
    """A package, the script that runs it, and what it can do."""

    # As docs/clients.md calls it.
    name: str
    # In tests/clients/scripts.
    script: str
    # The name of a file in tests/clients/requirements; `npm`; or `test`, the environment of the tests.
    environment: str
    # The class that it raises, by the case of `scripts/report.py`. A case is missing where the client cannot
    # get into it or does not look at the status.
    errors: Mapping[str, str] = field(default_factory=dict, hash=False)
    pictures: bool = False

    @property
    def interpreter(self) -> list[str]:
        """The command that runs a script in its environment."""
        if self.environment in ("npm", "test"):
            return ["node" if self.environment == "npm" else sys.executable]
        return [str(ROOT / f".venv-clients-{self.environment}" / "bin" / "python")]

    @property
    def installed(self) -> bool:
        """Whether it is in the environment of the tests, or make test-clients has made its own."""
        if self.environment == "test":
            return find_spec(self.name) is not None
        stamp = NODE if self.environment == "npm" else ROOT / f".venv-clients-{self.environment}"
        return (stamp / "installed").exists()

    def run(self, url: str, folder: Path) -> dict[str, Any]:
        """What its script prints, beside a gateway at `url`."""
        script = SCRIPTS / self.script
        if self.environment == "npm":
            # Node looks for packages in the folders above a script.
            for file in (script, SCRIPTS / "report.mjs"):
                shutil.copy(file, NODE)
            script = NODE / self.script
        report: dict[str, Any] = self.execute([str(script)], url, folder)
        return report

    def paste(self, text: str, url: str, folder: Path) -> Any:
        """Run the lines of docs/clients.md with this gateway's URL and key; returns their `vector`."""
        text = text.replace(PAGE_URL, url).replace(PAGE_KEY, KEY)
        if self.environment == "npm":
            # In a file, because only modules may wait for a reply at their top level.
            file = NODE / "pasted.mjs"
            file.write_text(f"{text}\nconsole.log(JSON.stringify(vector));\n")
        else:
            file = folder / "pasted.py"
            file.write_text(
                f"{text}\nimport json\n\nprint(json.dumps([float(number) for number in vector]))\n"
            )
        return self.execute([str(file)], url, folder)

    def execute(self, arguments: list[str], url: str, folder: Path) -> Any:
        """The last line that its interpreter prints for `arguments`, read as JSON; `folder` is its home."""
        ended = subprocess.run(
            [*self.interpreter, *arguments],
            cwd=NODE if self.environment == "npm" else folder,
            env=_environment(url, folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
        return json.loads(ended.stdout.splitlines()[-1])


def _environment(url: str, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "URL": url,
        "KEY": KEY,
        "MODEL": "demo",
        "TEXTS": json.dumps(TEXTS),
        "PICTURES": json.dumps([str(path) for path in FILES]),
        # No client may call home, nor wait for an answer from there.
        "ANONYMIZED_TELEMETRY": "false",
        "HAYSTACK_TELEMETRY_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "AI_SDK_LOG_WARNINGS": "false",
    }


def _errors(module: str, wrong_key: str, wrong_model: str = "", too_many: str = "") -> dict[str, str]:
    """The classes of `module` that a client raises, by case; without those that it cannot get into."""
    cases = {"wrong_key": wrong_key, "wrong_model": wrong_model, "too_many": too_many}
    return {case: module + raised for case, raised in cases.items() if raised}


OPENAI = _errors("openai.", "AuthenticationError", "NotFoundError", "APIStatusError")
HUGGING_FACE = _errors("huggingface_hub.", "HfHubHTTPError", "", "HfHubHTTPError")

CLIENTS = (
    Client("openai", "with_openai.py", "test", OPENAI, pictures=True),
    Client("langchain-openai", "with_langchain_openai.py", "general", OPENAI, pictures=True),
    Client(
        "llama-index-openai-like",
        "with_llama_index_openai_like.py",
        "general",
        _errors("openai.", "AuthenticationError", "NotFoundError"),
        pictures=True,
    ),
    Client(
        "litellm",
        "with_litellm.py",
        "litellm",
        _errors("litellm.", "AuthenticationError", "NotFoundError", "BadRequestError"),
        pictures=True,
    ),
    Client("lancedb", "with_lancedb.py", "databases", _errors("openai.", "AuthenticationError")),
    Client("qdrant-client", "with_qdrant.py", "databases", pictures=True),
    Client("huggingface_hub", "with_huggingface_hub.py", "test", HUGGING_FACE),
    Client("langchain-huggingface", "with_langchain_huggingface.py", "general", HUGGING_FACE),
    Client("haystack", "with_haystack.py", "general", HUGGING_FACE),
    Client("llama-index-tei", "with_llama_index_tei.py", "general"),
    Client("chromadb", "with_chromadb.py", "databases"),
    Client(
        "cohere",
        "with_cohere.py",
        "general",
        _errors("cohere.", "UnauthorizedError", "NotFoundError", "ApiError"),
        pictures=True,
    ),
    Client(
        "google-genai",
        "with_google_genai.py",
        "general",
        _errors("google.", "ClientError", "ClientError", "ClientError"),
        pictures=True,
    ),
    Client(
        "google-cloud-aiplatform",
        "with_aiplatform.py",
        "vertex",
        _errors("google.", "Unauthorized", "NotFound", "GoogleAPICallError"),
        pictures=True,
    ),
    Client(
        "ollama",
        "with_ollama.py",
        "test",
        _errors("ollama.", "ResponseError", "ResponseError", "ResponseError"),
    ),
    Client(
        "openai (npm)",
        "with_openai.mjs",
        "npm",
        _errors("", "AuthenticationError", "NotFoundError", "APIError"),
        pictures=True,
    ),
    Client("ai (npm)", "with_ai_sdk.mjs", "npm", _errors("", "APICallError", "APICallError")),
    Client(
        "cohere-ai (npm)",
        "with_cohere.mjs",
        "npm",
        _errors("", "UnauthorizedError", "NotFoundError", "CohereError"),
        pictures=True,
    ),
    Client(
        "ollama (npm)",
        "with_ollama.mjs",
        "npm",
        _errors("", "ResponseError", "ResponseError", "ResponseError"),
    ),
)


class Table(dict[str, dict[str, str]]):
    """What was found of each client: its version, and the result of each kind of check."""

    COLUMNS = ("version", "text", "picture", "errors", "snippet")

    def lines(self, names: list[str]) -> list[str]:
        """The table as text: its head, and a line per client of `names` that was run."""
        rows: list[tuple[str, ...]] = [("client", *self.COLUMNS)]
        rows += [
            (name, *(self[name].get(column, "FAILED") for column in self.COLUMNS))
            for name in names
            if name in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
