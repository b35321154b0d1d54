"""LoRA adapters: whether one is there, and was made for the model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ray_si.engines import remote
from ray_si.engines.memory import headers_of
from ray_si.errors import EngineError

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter's must not exceed it."""

_DOWN = re.compile(
    r"(?!.*(?:vision|visual|image|video|audio|sound|speech))"
    r".*\blayers\.(\d+)\.self_attn\.q_proj\.lora_A\."
)
"""A tensor of shape (rank, width of the model), of a numbered layer; none of a tower for images or
sound, whose width is another."""


def room_for(lora: str) -> int:
    """The least rank to reserve that an adapter fits; EngineError where there is no adapter."""
    try:
        text = (Path(lora) / "adapter_config.json").read_text(encoding="utf-8")
        rank = json.loads(text)["r"]
        return next(room for room in LORA_RANKS if room >= rank)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise EngineError(f"{lora} is no LoRA adapter that vLLM can take: {error}") from error


def check_adapter(lora: str, config: dict[str, Any]) -> None:
    """Raise EngineError unless ``lora`` is an adapter that fits a model of this configuration.

    Where the adapter doesn't touch the attention's queries, its size is not compared.
    """
    folder = str(remote.local_copy(lora)) if remote.is_remote(lora) else lora
    room_for(folder)
    width, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    for header in headers_of(folder):
        for name, tensor in header.items():
            if not (match := _DOWN.match(name)):
                continue
            layer, size = int(match[1]), tensor["shape"][1]
            if (width and size != width) or (layers and layer >= layers):
                raise EngineError(
                    f"{lora} is an adapter of another model: its layer {layer} is {size} wide, and "
                    f"the model has {layers} layers of width {width}"
                )
