"""An adapter that is none, or of another model, is refused before it is loaded."""

from __future__ import annotations

import json

import pytest

from ray_si.engines.adapters import check_adapter
from ray_si.errors import EngineError
from tests.engines.test_memory import write


def adapter(folder, width=576, layer=0):
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8}))
    name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_A.weight"
    write(folder, {name: ("F32", [8, width], 32 * width)}, "adapter_model.safetensors")
    return str(folder)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    config = {"hidden_size": 576, "num_hidden_layers": 30}
    check_adapter(adapter(tmp_path), config)
    with pytest.raises(EngineError, match="another model: its layer 0 is 896 wide"):
        check_adapter(adapter(tmp_path, width=896), config)
    with pytest.raises(EngineError, match="the model has 30 layers of width 576"):
        check_adapter(adapter(tmp_path, layer=31), config)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(EngineError, match="no LoRA adapter"):
        check_adapter(str(tmp_path), config)


def test_of_an_adapter_of_a_model_for_images_the_layers_for_text_are_compared(tmp_path):
    config = {"hidden_size": 2560, "num_hidden_layers": 34}
    layer = "layers.0.self_attn.q_proj.lora_A.weight"
    tower = f"base_model.model.model.vision_tower.vision_model.encoder.{layer}"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    for text in ("model.language_model", "language_model.model"):
        for width in (2560, 2048):
            name = f"base_model.model.{text}.{layer}"
            tensors = {tower: ("F32", [8, 1152], 0), name: ("F32", [8, width], 0)}
            write(tmp_path, tensors, "adapter_model.safetensors")
            if width == 2560:
                check_adapter(str(tmp_path), config)
                continue
            with pytest.raises(EngineError, match="its layer 0 is 2048 wide"):
                check_adapter(str(tmp_path), config)
