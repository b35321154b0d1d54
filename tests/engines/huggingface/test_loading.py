"""Where a model's layers go."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from ray_si.engines.huggingface import loading
from ray_si.errors import EngineError


def test_a_model_over_several_gpus_is_placed_by_accelerate_if_their_memory_together_has_room(
    monkeypatch,
):
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]  # there are none: it lands on the CPU
    monkeypatch.setattr(loading, "_gpus", lambda place: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (150 << 20, 1 << 40))
    placed, original = [], AutoModelForCausalLM.from_pretrained

    def from_pretrained(*arguments, **options):
        placed.append(options.get("device_map"))
        return original(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    loading.load("smollm2-135m-instruct", device="cpu", dtype="bfloat16")  # of 257 MiB
    assert placed == ["auto"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (100 << 20, 1 << 40))
    with pytest.raises(EngineError, match=r"take 0\.3 GiB, and there are 0\.2 GiB"):
        loading.load("smollm2-135m-instruct", device="cpu", dtype="bfloat16")
