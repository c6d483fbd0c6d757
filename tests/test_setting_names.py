"""Names of settings, and names that are probably misspelled ones."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from clip_embeddings import config, paths
from clip_embeddings.setting_names import (
    PLATFORM_NAMES,
    edit_distance,
    misspelled_settings,
    nearest_setting,
    setting_names,
)
from tests.support.serving import Server, serving
from tests.support.settings import INVALID_VALUES


def test_every_setting_is_known_because_it_is_read() -> None:
    sources = [Path(str(module.__file__)).read_text() for module in (config, paths)]
    literals = {*re.findall(r'env(?:\.get\(|, )"([A-Z_]+)"', "".join(sources))}

    assert setting_names() == literals - PLATFORM_NAMES
    assert {name for name, *_ in INVALID_VALUES} <= setting_names() | PLATFORM_NAMES
    assert {"MODEL", "MODELS", "API_KEY", "INDEX_URL"} <= setting_names()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("MAX_ITEM", "MAX_ITEMS"),
        ("MAXITEMS", "MAX_ITEMS"),
        ("MAX_ITMES", "MAX_ITEMS"),
        ("MODLE", "MODEL"),
        ("JOB_URL", "JOBS_URL"),
        ("INDEXURL", "INDEX_URL"),
        ("ALLOW_ORIGINS", "ALLOWED_ORIGINS"),
        ("FETCH_TIME_OUT", "FETCH_TIMEOUT"),
    ],
)
def test_a_near_miss_names_the_setting(name: str, setting: str) -> None:
    assert nearest_setting(name) == setting


@pytest.mark.parametrize(
    "name",
    [
        *("MODEL", "MAX_ITEMS", "K_SERVICE", "PORT", "X_GOOGLE_FUNCTION_NAME"),
        *("HOME", "PATH", "HOST", "HOSTNAME", "SHELL", "TERM", "LANG", "LOGNAME", "USER", "OLDPWD", "TMPDIR"),
        *("PYTHONPATH", "VIRTUAL_ENV", "PIP_INDEX_URL", "OMP_NUM_THREADS", "HTTP_PROXY", "LC_ALL", "MAIL"),
        *("GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST", "KUBERNETES_SERVICE_PORT", "DEBIAN_FRONTEND"),
    ],
)
def test_known_and_unrelated_names_are_left_alone(name: str) -> None:
    assert nearest_setting(name) is None


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        *(("", "", 0), ("abc", "abc", 0), ("abc", "ab", 1), ("ab", "abc", 1), ("abc", "axc", 1)),
        *(("abc", "acb", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("abcd", "badc", 2)),
    ],
)
def test_the_edit_distance(first: str, second: str, edits: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == edits


def test_the_bound_rules_out_no_near_name() -> None:
    """Every name that one or two edits make of a setting is near it, whatever the quick bound says."""
    setting = "MAX_EVENT_AGE"
    once = {
        setting[:i] + part + setting[i + cut :] for i in range(14) for cut in (0, 1) for part in ("", "Q")
    }
    twice = {name[:i] + part + name[i + 1 :] for name in once for i in range(len(name)) for part in ("", "Z")}

    assert {nearest_setting(name) for name in once | twice if name != setting} == {setting}


def test_a_large_environment_takes_no_time() -> None:
    names = [f"SOME_VARIABLE_{index}" for index in range(500)]
    setting_names()
    started = time.perf_counter()

    assert misspelled_settings(names) == {}

    # Measured: 10 ms for 500 names; a process has some dozens.
    assert time.perf_counter() - started < 0.5


def test_a_start_warns_of_a_near_miss_and_goes_on(log: Path) -> None:
    with serving("embed_text", log, MAX_ITEM="3", SOME_LIBRARY="x") as server:
        assert isinstance(server, Server)
        assert server.post("/", data={"text": "a"}).status_code == 200

    text = log.read_text()
    assert text.count("MAX_ITEM is not a setting; did you mean MAX_ITEMS?") == 1
    assert text.count("is not a setting") == 1
