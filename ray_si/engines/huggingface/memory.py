"""Whether a model's weights fit into GPU memory, known before they are loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ray_si.errors import EngineError

_GIB = 1 << 30


def check_memory(
    model: str, path: str, dtype: torch.dtype, source: dict[str, Any], have: int
) -> None:
    """Raise EngineError where a model's weights alone exceed ``have`` bytes.

    ``path`` is a folder or a hub name and ``source`` what transformers needs besides to read its
    configuration, which is all that is read.
    """
    try:
        config = AutoConfig.from_pretrained(path, **source)
        parameters = count_parameters(config, trust_remote_code=source.get("trust_remote_code"))
    except (OSError, ValueError) as error:
        raise EngineError(f"model {model!r} could not be loaded: {error}") from error
    check_weights(model, parameters, dtype, have)


def count_parameters(config: Any, **kwargs: Any) -> int:
    """Parameters of a causal language model with this configuration; allocates none of them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **kwargs)
    return sum(parameter.numel() for parameter in model.parameters())


def check_weights(model: str, parameters: int, dtype: torch.dtype, have: int) -> None:
    """Raise EngineError where so many parameters exceed ``have`` bytes."""
    need = parameters * dtype.itemsize
    if need > have:
        raise EngineError(
            f"{model} has {parameters / 1e9:.2f} billion parameters, which in "
            f"{str(dtype).removeprefix('torch.')} take {need / _GIB:.1f} GiB, and the GPU has "
            f"{have / _GIB:.1f} GiB to give: spread it over more GPUs, or choose a smaller dtype, "
            "a quantized model or a smaller one"
        )
