"""The catalogue of models, and bakes of its models without a network."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from clip_embeddings.engine.manifest import slug
from clip_embeddings.protocols.registry import PROTOCOLS
from model_cache.baking import catalogue
from model_cache.baking.catalogue import CATALOGUE
from model_cache.baking.loaders.registry import LOADERS
from tests.support.baking.command import Run, command_line
from tests.support.baking.hub import hub_environment
from tests.support.serving import ROOT, environment, free_port


def test_names_are_unique_folder_names() -> None:
    names = [slug(name) for entry in CATALOGUE for name in (entry.name, *entry.aliases)]

    assert len(set(names)) == len(names)
    assert [entry.name for entry in CATALOGUE] == [slug(entry.name) for entry in CATALOGUE]


def test_the_models_that_clients_name_are_in_the_catalogue() -> None:
    dimensions_by_name = {
        "clip-ViT-B-32": 512,
        "clip-vit-base-patch32": 512,
        "clip-vit-large-patch14": 768,
        "clip-ViT-B-32-multilingual-v1": 512,
        "open-clip-vit-b32": 512,
        "dino-v2-vits14": 384,
    }

    for name, dimensions in dimensions_by_name.items():
        entry = catalogue.find(name)
        assert entry is not None, name
        assert entry.dimensions == dimensions


def test_the_protocols_of_an_entry_exist_and_have_one_model() -> None:
    protocols = [protocol for entry in CATALOGUE for protocol in entry.protocols]

    assert set(protocols) <= set(PROTOCOLS)
    assert len(protocols) == len(set(protocols))


def test_the_catalogue_agrees_with_open_clip() -> None:
    from model_cache.baking.torch_setup import import_open_clip

    open_clip = import_open_clip()
    names = {
        entry: entry.source.name if entry.source.loader == "open_clip" else entry.source.image_name
        for entry in CATALOGUE
        if entry.source.loader in ("open_clip", "sentence_transformers")
    }
    assert len(names) >= 9
    for entry, name in names.items():
        architecture, _, tag = name.partition("/")
        config = open_clip.get_pretrained_cfg(architecture, tag)
        assert config, name
        repositories = [download.repository for download in entry.downloads]
        assert config["hf_hub"].rstrip("/") in repositories
        assert open_clip.get_model_config(architecture)["embed_dim"] == entry.dimensions


def test_every_entry_names_a_loader() -> None:
    assert {entry.source.loader for entry in CATALOGUE} == set(LOADERS)


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_is_a_module_with_a_load_function(name: str) -> None:
    assert list(signature(import_module(LOADERS[name].module).load).parameters) == ["source"]


def test_list(run: Run) -> None:
    outcome = run("--list")

    assert outcome.status == 0
    assert "--list all" in outcome.out
    for entry in CATALOGUE:
        (line,) = [line for line in outcome.out.splitlines() if line.split()[:1] == [entry.name]]
        assert entry.license in line
        assert f" {entry.dimensions} " in line


@pytest.mark.full
def test_a_list_whose_reader_has_enough_ends_quietly() -> None:
    # `true` reads nothing at all.
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m model_cache.bake --list all | true"

    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment({}), capture_output=True)

    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE])
def test_without_a_network(name: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()

    outcome = command_line(name, "--out", tmp_path / "out", **hub_environment(url, tmp_path / "cache"))

    # huggingface_hub itself would retry for about a minute; measured alone this takes one second.
    assert time.monotonic() - started < 20
    assert outcome.status == 2
    assert f"The weights of {name} could not be downloaded from {url}/" in outcome.sentence
    assert "--checkpoint" in outcome.sentence
    assert not (tmp_path / "out").exists()


def test_only_models_of_open_clip_have_a_choice_of_activation(run: Run, tmp_path: Path) -> None:
    outcome = run("dino-v2-vits14", "--quick-gelu", "--out", tmp_path / "out")

    assert outcome.status == 2
    assert "dino-v2-vits14 has an activation of its own" in outcome.sentence
