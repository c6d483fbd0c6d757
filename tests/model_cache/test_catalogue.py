"""The catalogue: what it says of itself, and what a bake without a network says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clip_embeddings.engine.manifest import slug
from clip_embeddings.protocols.registry import PROTOCOLS
from model_cache.baking import catalogue
from model_cache.baking.catalogue import CATALOGUE
from tests.support.baking.command import Run, command_line
from tests.support.baking.hub import hub_environment
from tests.support.serving import free_port


def test_names_are_folder_names_and_nobody_elses() -> None:
    names = [slug(name) for entry in CATALOGUE for name in (entry.name, *entry.aliases)]

    assert len(set(names)) == len(names)
    assert [entry.name for entry in CATALOGUE] == [slug(entry.name) for entry in CATALOGUE]


def test_the_models_that_clients_name_are_there() -> None:
    wanted = {
        "clip-ViT-B-32": 512,
        "clip-vit-base-patch32": 512,
        "clip-vit-large-patch14": 768,
        "clip-ViT-B-32-multilingual-v1": 512,
        "open-clip-vit-b32": 512,
        "dino-v2-vits14": 384,
    }

    for name, dimensions in wanted.items():
        entry = catalogue.find(name)
        assert entry is not None, name
        assert entry.dimensions == dimensions


def test_every_protocol_has_one_model() -> None:
    protocols = [protocol for entry in CATALOGUE for protocol in entry.protocols]

    assert sorted(protocols) == sorted(PROTOCOLS)


def test_open_clip_has_what_the_catalogue_says() -> None:
    from model_cache.baking.torch_setup import import_open_clip

    open_clip = import_open_clip()
    for entry in CATALOGUE:
        source = entry.image_source or entry.source
        if entry.preprocess:
            continue
        architecture, _, tag = source.partition("/")
        config = open_clip.get_pretrained_cfg(architecture, tag)
        assert config, source
        repositories = [repository for repository, _ in entry.downloads]
        assert config["hf_hub"].rstrip("/") in repositories
        assert open_clip.get_model_config(architecture)["embed_dim"] == entry.dimensions


def test_list(run: Run) -> None:
    outcome = run("--list")

    assert outcome.status == 0
    assert "--list all" in outcome.out
    for entry in CATALOGUE:
        (line,) = [line for line in outcome.out.splitlines() if line.split()[:1] == [entry.name]]
        assert entry.licence in line
        assert f" {entry.dimensions} " in line


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE])
def test_without_a_network(name: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()

    outcome = command_line(name, "--out", tmp_path / "out", **hub_environment(url, tmp_path / "cache"))

    # The sentence, and long before the hub's own patience ends; measured alone it takes a second.
    assert time.monotonic() - started < 20
    assert outcome.status == 2
    assert f"The weights of {name} could not be downloaded from {url}/" in outcome.sentence
    assert "--checkpoint" in outcome.sentence
    assert not (tmp_path / "out").exists()


def test_an_activation_is_asked_of_open_clip_only(run: Run, tmp_path: Path) -> None:
    outcome = run("dino-v2-vits14", "--quick-gelu", "--out", tmp_path / "out")

    assert outcome.status == 2
    assert "dino-v2-vits14 has an activation of its own" in outcome.sentence
