"""`python -m model_cache.evaluate`: figures on pairs, the cache of vectors, and what cannot be evaluated."""

from __future__ import annotations

import csv
import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.engine.model import normalize_rows
from model_cache import evaluate
from model_cache.demo.emoji_sheet import load_emoji_sheet
from tests.support.baking.tiny import Tiny
from tests.support.models import DEMO, copy_model, edit_manifest
from tests.support.pictures import web
from tests.support.serving import ROOT, environment
from tests.support.vectors import model, raw_texts
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Outcome:
    """How an evaluation ended: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def write_pairs(path: Path, rows: list[tuple[str, str]], header: tuple[str, ...] = ()) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])
    return path


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled emoji as files, and captions.csv with their names."""
    folder = tmp_path_factory.mktemp("emoji")
    rows = []
    for number, one in enumerate(load_emoji_sheet()):
        one.image.save(folder / f"{number:04}.bmp")
        rows.append((f"{number:04}.bmp", one.name))
    write_pairs(folder / "captions.csv", rows)
    return folder


@pytest.fixture
def few(emoji: Path) -> Path:
    """The pairs of 40 emoji."""
    path = emoji / "few.csv"
    with (emoji / "captions.csv").open(newline="", encoding="utf-8") as file:
        return write_pairs(path, [(row[0], row[1]) for row in list(csv.reader(file))[:40]])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs the command line in this process, which is faster."""

    def main(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = evaluate.main([*map(str, arguments), "--cache", str(tmp_path / "vectors.sqlite")])
        return Outcome(status, *capsys.readouterr())

    return main


def test_the_bundled_model_finds_its_emoji_as_well_as_its_float32_checkpoint_did(
    run: Any, emoji: Path
) -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    (float32,) = re.findall(r"name to cell of the bundled sheet \| ([\d.]+)", readme)

    outcome = run("demo", "--pairs", emoji / "captions.csv", "--json")

    (figures,) = outcome.json["models"]
    assert figures["precision"] == "int8"
    assert figures["text_to_image"]["recall_at_1"]["value"] >= float(float32) - 0.005
    assert figures["text_to_image"]["recall_at_5"]["value"] >= 0.999
    assert figures["image_to_text"]["recall_at_1"]["value"] >= 0.96
    assert figures["text_to_image"]["median_rank"]["value"] == 1


def test_a_table_names_figures_intervals_and_costs(run: Any, few: Path) -> None:
    outcome = run("demo", "--pairs", few)

    assert outcome.status == 0, outcome.err
    assert "captions find pictures (40 captions, 40 pictures)" in outcome.out
    assert re.search(r"demo int8 +100\.0 \[100\.0, 100\.0\]", outcome.out)
    assert "cost, in batches" in outcome.out


def test_the_figures_are_those_of_the_engines_vectors(run: Any, few: Path) -> None:
    names = [one.name for one in load_emoji_sheet()[:40]]
    tower = model().image.get()
    pictures = normalize_rows(tower.embed([tower.pixels(one.image) for one in load_emoji_sheet()[:40]]))
    # Each picture has the caption of the next one.
    shifted = names[1:] + names[:1]
    scores = normalize_rows(raw_texts(*shifted)) @ pictures.T
    ranks = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    rows = [(f"{number:04}.bmp", name) for number, name in enumerate(shifted)]

    outcome = run("demo", "--pairs", write_pairs(few.with_name("shifted.csv"), rows), "--json")

    figures = outcome.json["models"][0]["text_to_image"]
    for k in (1, 5, 10):
        interval = figures[f"recall_at_{k}"]
        assert interval["value"] == pytest.approx((ranks <= k).mean())
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert figures["median_rank"]["value"] == np.median(ranks)


def test_captions_of_several_lines_and_equal_files_belong_together(
    run: Any, emoji: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy.png").write_bytes((emoji / "0000.bmp").read_bytes())
    names = [one.name for one in load_emoji_sheet()[:3]]
    rows = [(str(emoji / f"000{number}.bmp"), name) for number, name in enumerate(names)]
    rows += [("copy.png", names[0]), ("copy.png", "a face")]
    pairs = write_pairs(tmp_path / "pairs.csv", [(b, a) for a, b in rows], header=("Caption", "Image"))

    outcome = run("demo", "--pairs", pairs, "--json")

    assert outcome.json["pairs"] == {"captions": 4, "pictures": 3}
    assert outcome.json["models"][0]["image_to_text"]["recall_at_1"]["value"] == 1


def test_what_cannot_be_read_is_listed_and_left_out(run: Any, few: Path) -> None:
    folder = few.parent
    (folder / "broken.bmp").write_bytes((folder / "0000.bmp").read_bytes()[:60])
    (folder / "text.jpg").write_text("no picture")
    rows = [(f"{name}", "a thing") for name in ("absent.png", "broken.bmp", "text.jpg")]
    rows += [("0001.bmp", ""), ("http://127.0.0.1:9/a.png", "not public"), ("0000.bmp", "a name")]
    pairs = write_pairs(folder / "bad.csv", rows)
    with pairs.open("a") as file:
        file.write("alone\n\n")

    outcome = run("demo", "--pairs", pairs, "--json")

    assert outcome.status == 0
    assert {problem["item"] for problem in outcome.json["problems"]} == {
        "0001.bmp",
        "alone",
        "absent.png",
        "broken.bmp",
        "text.jpg",
        "http://127.0.0.1:9/a.png",
    }
    assert all(problem["reason"] for problem in outcome.json["problems"])
    assert outcome.json["pairs"] == {"captions": 1, "pictures": 1}


def test_pictures_are_fetched_from_urls(
    run: Any, emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCH_PRIVATE_HOSTS", "127.0.0.1")
    names = [one.name for one in load_emoji_sheet()[:5]]
    files = {f"/{number}": (emoji / f"{number:04}.bmp").read_bytes() for number in range(5)}
    with web(files) as site:
        rows = [(f"{site}/{number}", name) for number, name in enumerate(names)]
        outcome = run(
            "demo", "--pairs", write_pairs(tmp_path / "urls.csv", [*rows, (f"{site}/9", "x")]), "--json"
        )

    assert outcome.json["pairs"] == {"captions": 5, "pictures": 5}
    (problem,) = outcome.json["problems"]
    assert "404" in problem["reason"]


def test_an_interrupted_evaluation_is_resumed(run: Any, emoji: Path, tmp_path: Path) -> None:
    cache = tmp_path / "vectors.sqlite"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "model_cache.evaluate",
            "demo",
            "--pairs",
            emoji / "captions.csv",
            "--cache",
            cache,
        ],
        cwd=ROOT,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: len(stored(cache)) > 300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    before = stored(cache)

    outcome = run("demo", "--pairs", emoji / "captions.csv")

    assert process.returncode == 130
    assert "Run it again" in err
    assert outcome.status == 0
    after = stored(cache)
    assert len(before) < len(after) == 2 * 1844
    # With the time that each vector took: none of them was made again.
    assert set(before) <= set(after)


def test_a_float32_model_of_the_same_space_is_what_int8_is_compared_with(
    run: Any, few: Path, tmp_path: Path
) -> None:
    def as_float32(manifest: Any) -> None:
        for tower in manifest["towers"].values():
            tower |= {"precision": "fp32", "fingerprint": f"other {tower['name']}"}

    other, another_space = copy_model(tmp_path / "other"), copy_model(tmp_path / "third", space="another")
    edit_manifest(other, as_float32)

    int8, float32, third = run("demo", other, another_space, "--pairs", few, "--json").json["models"]

    assert (int8["precision"], float32["precision"]) == ("int8", "fp32")
    for direction in ("text_to_image", "image_to_text"):
        assert int8["compared"][direction] == {
            "reference": "other",
            "top_10_agreement": 1,
            "recall_at_1_lost": {"value": 0, "low": 0, "high": 0},
        }
    assert float32["compared"] is None
    assert third["compared"] is None


@pytest.mark.full
def test_the_checkpoint_itself_is_run_through_torch_beside_its_float32_artifact(
    run: Any, few: Path, tiny: Tiny, baked: Path
) -> None:
    reference = ("--reference", *tiny.arguments)

    torch, artifact = run(baked, *reference, "--pairs", few, "--json").json["models"]

    assert torch["name"] == "tiny (torch)"
    assert artifact["precision"] == "fp32"
    for direction in ("text_to_image", "image_to_text"):
        assert artifact["compared"][direction]["reference"] == "tiny (torch)"
        assert artifact["compared"][direction]["top_10_agreement"] >= 0.99
        assert abs(artifact["compared"][direction]["recall_at_1_lost"]["value"]) <= 0.03


def test_a_reference_that_cannot_be_loaded_is_an_error(run: Any, few: Path, tiny: Tiny) -> None:
    outcome = run("demo", "--pairs", few, "--reference", "tiny", "--config", tiny.config, "--checkpoint", few)

    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_figures_and_wrong_answers_without_another_file(
    run: Any, few: Path, classes: Path, tmp_path: Path
) -> None:
    names = [one.name for one in load_emoji_sheet()[:40]]
    rows = [(f"{number:04}.bmp", f"<script>{name}") for number, name in enumerate(names[1:] + names[:1])]
    (classes / "clock" / "notes.txt").write_text("no picture")
    pairs = write_pairs(few.with_name("wrong.csv"), rows)
    page = tmp_path / "page.html"

    run("demo", "--pairs", pairs, "--classes", classes, "--html", page)

    read = Page(page.read_text(encoding="utf-8"))
    assert "script" not in read.tags
    assert read.tags.count("img") > 20
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in read.references)
    assert "captions whose picture does not come first" in read.text
    assert f"<script>{names[3]}" in read.text
    assert "left out (1)" in read.text
    assert "notes.txt" in read.text


@pytest.fixture
def classes(emoji: Path, tmp_path: Path) -> Path:
    """A folder with three pictures of each of four kinds of emoji."""
    folder = tmp_path / "classes"
    names = [one.name for one in load_emoji_sheet()]
    for label in ("face", "flag", "clock", "Japanese_button"):
        (folder / label).mkdir(parents=True)
        words = label.lower().replace("_", " ").split()
        for number in [i for i, name in enumerate(names) if all(word in name.lower() for word in words)][:3]:
            copy(emoji / f"{number:04}.bmp", folder / label)
    return folder


def test_pictures_get_the_class_whose_prompts_are_closest(run: Any, classes: Path) -> None:
    outcome = run("demo", "--classes", classes, "--template", "{}", "--template", "a {}", "--json")

    data = outcome.json["classes"]
    assert data == {"classes": 4, "pictures": 12, "templates": ["{}", "a {}"]}
    labels = ["Japanese button", "clock", "face", "flag"]
    files = [picture for label in labels for picture in sorted((classes / label.replace(" ", "_")).iterdir())]
    tower = model().image.get()
    pictures = normalize_rows(tower.embed([tower.pixels(Image.open(file)) for file in files]))
    prompts = normalize_rows(raw_texts(*(form for label in labels for form in (label, f"a {label}"))))
    means = normalize_rows(prompts.reshape(4, 2, -1).mean(axis=1))
    expected = ((pictures @ means.T).argmax(axis=1) == np.repeat(range(4), 3)).mean()
    figures = outcome.json["models"][0]["zero_shot"]
    assert figures["top_1"]["value"] == pytest.approx(expected)
    assert figures["top_1"]["value"] >= 0.75
    assert figures["top_5"]["value"] == 1


def test_pairs_and_classes_in_one_run(run: Any, few: Path, classes: Path) -> None:
    (classes / "flag" / "notes.txt").write_text("no picture")
    (classes / "flag" / ".hidden").write_text("not counted")
    (classes / "empty").mkdir()

    outcome = run("demo", "--pairs", few, "--classes", classes)

    assert outcome.status == 0, outcome.err
    assert "captions find pictures (40 captions, 40 pictures)" in outcome.out
    assert "zero-shot classification (12 pictures, 4 classes, chance 25.0%)" in outcome.out
    assert "left out: 1" in outcome.out
    assert "flag/notes.txt" in outcome.out


def test_a_folder_without_classes_is_an_error(run: Any, emoji: Path) -> None:
    outcome = run("demo", "--classes", emoji)

    assert outcome.status == 2
    assert "one per class" in outcome.err


def stored(cache: Path) -> list[Any]:
    """The rows of a cache; none while there is no table."""
    if not cache.exists():
        return []
    with closing(sqlite3.connect(cache)) as database, suppress(sqlite3.OperationalError):
        return database.execute("SELECT * FROM vectors").fetchall()
    return []


def test_another_artifact_of_the_same_name_takes_no_vectors_of_the_first(
    run: Any, few: Path, tmp_path: Path
) -> None:
    towers = json.loads((DEMO / "manifest.json").read_text())["towers"]
    towers["image"]["fingerprint"] = "another"
    other = copy_model(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text()) | {"towers": towers}
    (other / "manifest.json").write_text(json.dumps(manifest))

    models = run("demo", other, "--pairs", few, "--json").json["models"]

    assert models[0]["fingerprints"]["image"] != models[1]["fingerprints"]["image"]
    assert models[0]["text_to_image"] == models[1]["text_to_image"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("", "has no line with a picture and a caption"),
        ("image,caption\n", "has no line with a picture and a caption"),
        ("absent.png,a thing\n", "No picture can be read"),
    ],
)
def test_data_that_cannot_be_used_is_an_error(
    run: Any, tmp_path: Path, content: str | None, sentence: str
) -> None:
    pairs = tmp_path / "pairs.csv"
    if content is not None:
        pairs.write_text(content)

    outcome = run("demo", "--pairs", pairs)

    assert outcome.status == 2
    assert outcome.out == ""
    assert sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_files_that_cannot_be_used_are_named(run: Any, few: Path, tmp_path: Path) -> None:
    page = run("demo", "--pairs", few, "--html", tmp_path / "absent" / "page.html")
    (tmp_path / "vectors.sqlite").write_text("no database, but a text " * 100)
    cache = run("demo", "--pairs", few)

    assert page.status == cache.status == 2
    assert "page.html: No such file or directory" in page.err
    assert "vectors.sqlite cannot be opened" in cache.err


def test_a_model_without_a_text_tower_and_an_unknown_one_are_refused(
    run: Any, few: Path, tmp_path: Path
) -> None:
    pictures_only = copy_model(tmp_path / "pictures-only", ("image",))

    assert "has no text tower" in run(pictures_only, "--pairs", few).err
    assert "No baked model" in run("no-such-model", "--pairs", few).err


def test_the_command_line_imports_no_torch(few: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from model_cache import evaluate; "
        f"status = evaluate.main(['demo', '--pairs', {str(few)!r}, '--cache', {str(tmp_path / 'c')!r}]); "
        "assert not {'torch', 'open_clip', 'onnx'} & set(sys.modules); sys.exit(status)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
