"""What a model was trained on, through bases, generators and adapters, in folders and on hubs."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import EngineError
from ray_si.records import Instance, SeedTask
from ray_si.training.provenance import ModelName, generators_of, seed_texts, texts_of_seeds


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return str(folder)


def test_texts_of_seeds_are_instructions_and_inputs_each_once():
    seed = SeedTask(
        "a", "n", "Say it.", (Instance("", "x"), Instance("an input of some length", "y")), False
    )
    assert texts_of_seeds([seed, seed]) == ["Say it.", "Say it.\nan input of some length"]


def test_a_model_knows_what_its_base_and_the_base_of_its_adapter_were_trained_on(tmp_path):
    oldest = write(tmp_path / "oldest", config={}, ray_si={"seed_instructions": ["One."]})
    middle = write(tmp_path / "middle", ray_si={"seed_texts": ["Two."], "base_model": oldest})
    adapter = write(tmp_path / "adapter", adapter_config={"base_model_name_or_path": middle})
    assert set(seed_texts([ModelName(adapter)])) == {"One.", "Two."}
    assert (
        seed_texts(
            [ModelName("smollm2-135m-instruct"), ModelName(str(tmp_path / "no"), on_hub=False)]
        )
        == []
    )


def test_models_that_name_each_other_end(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, ray_si={"seed_texts": ["One."], "base_model": str(two)})
    write(two, ray_si={"seed_texts": ["Two."], "base_model": str(one)})
    assert set(seed_texts([ModelName(str(one))])) == {"One.", "Two."}


def test_a_record_that_cannot_be_read_is_no_model_without_one(tmp_path):
    for text, fault in (("{", "is no JSON: "), ("[]", "is no JSON object")):
        (tmp_path / "ray_si.json").write_text(text)
        with pytest.raises(EngineError, match=fault):
            seed_texts([ModelName(str(tmp_path))])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache on this machine, with nothing behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(name, **files):
        cached = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        write(cached / "snapshots" / ("0" * 40), **files)

    return add


def test_a_model_of_the_hub_is_read_there_and_one_that_cannot_be_is_told_of(hub, caplog):
    hub("org/tuned", config={}, ray_si={"seed_texts": ["One."], "base_model": "org/base"})
    hub("org/base", config={})
    assert seed_texts([ModelName("org/tuned")]) == ["One."]
    assert "no hub answers whether org/base was trained on seed tasks" in caplog.text
    assert seed_texts([ModelName("org/tuned", on_hub=False)]) == []


def test_generators_are_those_of_both_parts_of_a_run_and_their_adapters():
    config = {
        "generator": {"engine": "vllm", "model": "org/a", "revision": "v1", "vllm": {"lora": "b"}},
        "instance_generator": {"engine": "openai", "model": "gpt"},
    }
    assert list(generators_of(config)) == [
        ModelName("org/a", "v1"),
        ModelName("b"),
        ModelName("gpt", None, on_hub=False),
    ]
    assert list(generators_of({"generator": {"engine": "replay", "model": None}})) == []
