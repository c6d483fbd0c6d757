"""What the pages must hold: a short README, links that lead somewhere, every setting with its default."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from clip_embeddings import __version__
from clip_embeddings.config import Settings, load_settings
from tests.support.documents import PAGES, anchors, links, read_page, table_rows
from tests.support.serving import ROOT, Server

README_LINES = 150
NEEDED = (
    *("http-api", "photos-and-index", "jobs", "models", "configuration", "deployment", "performance"),
    *("clients", "architecture", "bigquery", "spark", "what-is-not-verified"),
)


def test_the_readme_is_short() -> None:
    assert len(read_page("README.md").splitlines()) <= README_LINES


def test_the_readme_links_every_page() -> None:
    assert {f"docs/{name}.md" for name in NEEDED} <= {
        target.partition("#")[0] for target in links("README.md")
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in links(page):
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: there is no {path}"
        if fragment and file.suffix == ".md":
            assert fragment in anchors(file), f"{page}: {file.name} has no heading #{fragment}"


class Recording(dict[str, str]):
    """An environment that writes down which of its variables are read."""

    def __init__(self, values: Mapping[str, str] = {}) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


def documented_settings() -> dict[str, str]:
    """The default of each variable, as docs/configuration.md has it."""
    rows = list(table_rows("docs/configuration.md", "## Settings"))
    found = {row[0].strip("`"): row[1] for row in rows}
    assert len(found) == len(rows), "a variable is listed twice"
    return found


def test_exactly_the_settings_that_are_read_are_documented() -> None:
    environment = Recording()
    load_settings(environment)

    assert set(documented_settings()) == environment.names


def test_documented_defaults_are_the_settings_defaults() -> None:
    checked = 0
    for name, default in documented_settings().items():
        values = re.findall(r"`([^`]+)`", default)
        if values:
            assert load_settings({name: values[-1]}) == Settings(), name
            checked += 1
        else:
            assert default.startswith(("none", "a ", "the ")), f"{name}: {default}"

    assert checked > 15


def test_every_error_code_is_documented() -> None:
    raised = set()
    for path in (ROOT / "clip_embeddings").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        # A status may be a constant of its module.
        constants = dict(re.findall(r"^([A-Z_]+) = (\d{3})$", source, re.MULTILINE))
        for status, code in re.findall(r'ApiError\(\s*(\d{3}|[A-Z_]+),\s*"([a-z_]+)"', source):
            raised.add((constants.get(status, status), code))
        # A protocol may have statuses of its own for codes that are raised elsewhere.
        for statuses in re.findall(r"statuses=\{(.*?)\}", source, re.DOTALL):
            for code, status in re.findall(r'"([a-z_]+)": (\d{3}|[A-Z_]+)', statuses):
                raised.add((constants.get(status, status), code))
    # `validate` makes these from what it validates.
    raised |= {("400", "body_invalid"), ("400", "form_invalid"), ("400", "query_invalid")}
    section = read_page("docs/http-api.md").partition("\n## Errors\n")[2]
    rows = re.findall(r"^\| (\d{3}) \|.*\| (.*) \|$", section, re.MULTILINE)
    documented = {(status, code) for status, codes in rows for code in re.findall(r"`([a-z_]+)`", codes)}

    assert len(raised) > 40
    assert documented == raised


def test_every_route_is_documented(gateway: Server) -> None:
    page = read_page("docs/http-api.md")
    for path in gateway.get("/").json()["routes"]:
        shown = re.sub(r"(text|image)-embedding|zero-shot-image-classification|\{task\}", "TASK", path)
        shown = shown.replace("{model}", "MODEL").replace("{job}", "ID")
        assert re.search(rf"{re.escape(shown)}[`?&]", page), f"{path} is not in docs/http-api.md"


def test_the_version_is_that_of_the_changelog_or_a_newer_one() -> None:
    headings = re.findall(r"^## (.+)$", read_page("CHANGELOG.md"), re.MULTILINE)
    released = [tuple(map(int, heading.split("."))) for heading in headings[1:]]

    assert headings[0] == "Unreleased"
    assert released == sorted(released, reverse=True)
    assert released[0] <= tuple(map(int, re.findall(r"\d+", __version__)))


def test_the_package_takes_its_version_from_the_library() -> None:
    project = tomllib.loads(read_page("pyproject.toml"))

    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "clip_embeddings.__version__"}


def test_public_continuous_integration_runs_ci_run() -> None:
    workflow = yaml.safe_load(read_page(".github/workflows/ci.yml"))

    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_hooks_run_what_lint_runs() -> None:
    (repository,) = yaml.safe_load(read_page(".pre-commit-config.yaml"))["repos"]
    # Without the variables of the make that may run this test.
    lint = subprocess.run(
        ["make", "--dry-run", "--always-make", "lint"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    commands = [hook["entry"] for hook in repository["hooks"] if hook["id"] != "shellcheck"]
    assert [line.removesuffix(" .") for line in lint.splitlines()[-3:]] == commands
