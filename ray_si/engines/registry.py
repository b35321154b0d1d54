"""Name -> engine, imported only when it is asked for."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_si.engines import models
from ray_si.engines.adapters import check_adapter
from ray_si.engines.base import Engine, Request
from ray_si.engines.chat_template import check_labels
from ray_si.engines.context import check_context
from ray_si.engines.models import check_model
from ray_si.errors import EngineError

__all__ = ["ENGINES", "check", "check_model", "create", "embedder"]

if TYPE_CHECKING:
    from ray_si.engines.embedding import Embedder

ENGINES = {
    "transformers": ("ray_si.engines.huggingface.engine:create", ("torch", "transformers")),
    "vllm": ("ray_si.engines.vllm:VLLMEngine", ("vllm",)),
    "openai": ("ray_si.engines.openai.engine:OpenAIEngine", ("openai",)),
    "replay": ("ray_si.engines.replay.engine:ReplayEngine", ()),
}
"""Name -> (module:callable that makes it, packages it needs)."""


def check(
    engine: str,
    model: str | None,
    options: dict[str, Any] | None = None,
    requests: Sequence[Request] = (),
) -> None:
    """Raise EngineError with what to do if this engine, model or option cannot be used here.

    ``requests`` are the longest requests to expect, one of each purpose. Nothing is loaded; a hub
    is asked for the model's configuration only, an endpoint for one token to each of these.
    """
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}; choose from {', '.join(ENGINES)}")
    options = options or {}
    for package in ENGINES[engine][1]:
        models.need(package, f"the {engine} engine")
    if engine == "replay":
        recording = options.get("recording")
        if recording:
            from ray_si.engines.replay.engine import load_recording

            load_recording(recording)
    elif engine == "openai":
        assert model
        from ray_si.engines.openai.engine import OpenAIEngine

        endpoint = OpenAIEngine(model, **options)
        with ThreadPoolExecutor(1) as thread:  # the caller's own may run an event loop already
            thread.submit(asyncio.run, endpoint.trial(requests)).result()
    else:
        folder = check_model(model, options.get("revision"))
        check_context(folder, requests, options.get("max_model_len"))
        check_labels(folder, requests, options.get("chat_template_kwargs", {}))
        if engine == "vllm":
            _check_spread(folder, options)


def create(engine: str, model: str | None, options: dict[str, Any]) -> Engine:
    """Load an engine; ``options`` are its keyword arguments."""
    module, _, name = ENGINES[engine][0].partition(":")
    made: Engine = getattr(importlib.import_module(module), name)(model=model, **options)
    return made


def embedder(model: str) -> Embedder:
    """Load a sentence-transformers model: bundled, a folder, or a hub name."""
    from ray_si.engines.embedding import Embedder

    return Embedder(models.resolve(model))


def _check_spread(folder: Path, options: dict[str, Any]) -> None:
    """Raise EngineError where the heads cannot be dealt to the GPUs, or the adapter is no match."""
    config = models.read_config(folder)
    heads, gpus = config.get("num_attention_heads"), options.get("tensor_parallel_size", 1)
    if isinstance(heads, int) and heads % gpus:
        raise EngineError(
            f"the model's {heads} attention heads cannot be dealt to {gpus} GPUs: set "
            "generator.vllm.tensor_parallel_size to a divisor of their number"
        )
    if options.get("lora"):
        check_adapter(options["lora"], config)
