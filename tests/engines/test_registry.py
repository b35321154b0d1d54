"""Engines and models that are not there are refused with what to do."""

from __future__ import annotations

import pytest

from ray_si.engines import registry
from ray_si.errors import EngineError


def test_replay_needs_no_model():
    registry.check("replay", None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "no model is named"),
        ("./absent", "no model folder"),
        ("/a/b/c", "no model folder"),
    ],
)
def test_a_model_that_is_not_there_is_refused(model, message):
    with pytest.raises(EngineError, match=message):
        registry.check("transformers", model)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no config\.json"):
        registry.check_model(str(tmp_path))


def test_without_network_the_bundled_names_are_offered(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EngineError, match="smollm2-135m-instruct"):
        registry.check_model("someone/some-model")


def test_a_hub_that_does_not_answer_is_said_once(monkeypatch, tmp_path, capfd):
    from huggingface_hub.utils import _http

    nobody = "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    with pytest.raises(EngineError, match="no hub could be reached"):
        registry.check_model("someone/some-model")
    assert capfd.readouterr().err == ""


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(registry.ENGINES, "exotic", ("x:Y", ("no_such_package",)))
    with pytest.raises(EngineError, match="pip install no_such_package"):
        registry.check("exotic", None)


def test_heads_that_cannot_be_dealt_to_the_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.models, "need", lambda package, what: None)  # vLLM isn't needed
    (tmp_path / "config.json").write_text('{"num_attention_heads": 9}')
    registry.check("vllm", str(tmp_path), {"tensor_parallel_size": 3})
    with pytest.raises(EngineError, match="9 attention heads cannot be dealt to 2 GPUs"):
        registry.check("vllm", str(tmp_path), {"tensor_parallel_size": 2})
