"""What weights take in memory is read from the headers of their files, however large these are."""

from __future__ import annotations

import json
import struct

import pytest

from ray_si.engines import bundled, memory
from ray_si.engines.memory import check_memory, weight_bytes
from ray_si.engines.registry import check_fit
from ray_si.errors import EngineError

GIB = 1 << 30


def write(folder, tensors, name="model.safetensors", **config):
    """A file of these tensors (name -> type, shape, bytes), of which only the header is there."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor, (dtype, shape, size) in tensors.items():
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_floats_count_in_the_type_they_are_loaded_in(tmp_path):
    path = write(tmp_path, {"a": ("F32", [10, 20], 800), "b": ("BF16", [7], 14)})
    assert weight_bytes(path, None) == 814
    assert weight_bytes(path, 2) == 2 * 207
    assert weight_bytes(path, 4) == 4 * 207


def test_a_real_model_is_counted_as_it_loads():
    import torch
    from transformers import AutoModelForCausalLM

    path = bundled.resolve("smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    assert weight_bytes(path, 2) == sum(2 * weight.numel() for weight in model.parameters())


def test_quantized_weights_count_as_they_are_stored(tmp_path):
    """72 billion weights of four bits (AWQ), packed in 32-bit integers, fit a card of 80 GB."""
    packed, scales, embeddings = 72_000_000_000 // 8, 72_000_000_000 // 128, 152064 * 8192
    path = write(
        tmp_path,
        {
            "layers.qweight": ("I32", [packed], 4 * packed),
            "layers.scales": ("F16", [scales], 2 * scales),
            "embed_tokens.weight": ("F16", [embeddings], 2 * embeddings),
        },
        quantization_config={"quant_method": "awq", "bits": 4},
    )
    assert 36 * GIB < weight_bytes(path, 2) < 38 * GIB
    check_memory("seventy-two", path, 2, 72 * GIB)


def test_of_two_copies_of_the_weights_the_one_in_the_index_counts(tmp_path):
    write(tmp_path, {"a": ("BF16", [4], 8)}, "model-00001-of-00002.safetensors")
    write(tmp_path, {"b": ("BF16", [4], 8)}, "model-00002-of-00002.safetensors")
    write(tmp_path, {"a": ("BF16", [8], 16)}, "consolidated.safetensors")
    assert weight_bytes(str(tmp_path), None) == 16
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert weight_bytes(str(tmp_path), None) == 16


def test_weights_beyond_the_memory_are_refused_for_transformers_and_a_warning_for_vllm(tmp_path):
    """The type of the model is one that transformers has never heard of."""
    size = 70_000_000_000
    path = write(tmp_path, {"a": ("BF16", [size], 2 * size)}, model_type="of-tomorrow")
    with pytest.raises(EngineError, match=r"take 130\.4 GiB, and there are 76\.0 GiB for them: sp"):
        check_fit("transformers", path, {}, 76 * GIB, cards=1)
    assert "take 130.4 GiB" in check_fit("vllm", path, {}, 76 * GIB, cards=1)
    assert check_fit("vllm", path, {}, 76 * GIB, cards=2) is None


def test_a_container_has_the_memory_that_it_may_use(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_LIMITS", (limit, tmp_path / "absent"))
    whole = memory.free_memory(on_gpu=False)
    limit.write_text("max\n")
    assert memory.free_memory(on_gpu=False) == whole
    limit.write_text("1000000\n")
    assert memory.free_memory(on_gpu=False) == 1_000_000


def test_weights_in_other_formats_are_left_to_loading(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    check_memory("old", str(tmp_path), 2, 0)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(EngineError, match="no safetensors"):
        check_memory("broken", str(tmp_path), 2, 0)
