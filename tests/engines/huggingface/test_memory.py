"""Weights that do not fit are refused before anything is loaded."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from ray_si.engines import bundled
from ray_si.engines.huggingface.memory import check_weights, count_parameters
from ray_si.errors import EngineError


def test_parameters_are_counted_without_loading_them():
    config = AutoConfig.from_pretrained(bundled.resolve("smollm2-135m-instruct"))
    assert count_parameters(config) == 134_515_008
    config = AutoConfig.for_model(
        "llama",
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    assert count_parameters(config) == 70_553_706_496  # Llama 3 70B


def test_weights_that_exceed_the_gpu_are_refused_with_the_estimate():
    gib = 1 << 30
    check_weights("big", 70_000_000_000, torch.bfloat16, have=131 * gib)
    with pytest.raises(EngineError) as caught:
        check_weights("big", 70_000_000_000, torch.bfloat16, have=76 * gib)
    assert str(caught.value).startswith(
        "big has 70.00 billion parameters, which in bfloat16 take 130.4 GiB, and the GPU has "
        "76.0 GiB to give: spread it over more GPUs"
    )
