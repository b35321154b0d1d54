"""Base models: what tells them apart, what cannot be read."""

from __future__ import annotations

import pytest

from ray_si.errors import EngineError
from ray_si.training.base import inspect, weights_digest
from tests.training.conftest import copy_model


def test_the_digest_tells_models_apart_and_knows_a_copy(tiny_model, plain_model, tmp_path):
    assert weights_digest(tiny_model, None) != weights_digest(plain_model, None)
    copy = copy_model(tiny_model, tmp_path / "copy")
    (copy / "ray_si.json").write_text("{}")
    assert weights_digest(str(copy), None) == weights_digest(tiny_model, None)
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-8, 2)
        stream.write(b"\1" * 8)
    assert weights_digest(str(copy), None) != weights_digest(tiny_model, None)
    assert weights_digest("org/name", "abc") != weights_digest("org/name", "abd")


def test_a_model_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="could not be loaded") as caught:
        inspect(str(tmp_path))
    assert "\n" not in str(caught.value)
