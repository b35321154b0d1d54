"""Name -> engine, imported only when it is asked for."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_si.engines import bundled, models, remote
from ray_si.engines.adapters import check_adapter
from ray_si.engines.base import Engine, Request
from ray_si.engines.chat_template import check_rendering, check_turns
from ray_si.engines.context import check_context
from ray_si.engines.memory import check_memory
from ray_si.engines.models import check_embedder, check_model
from ray_si.errors import EngineError

__all__ = [
    "ENGINES",
    "FROM_THE_DRIVER",
    "check",
    "check_embedder",
    "check_fit",
    "check_model",
    "create",
    "embedder",
]

if TYPE_CHECKING:
    from ray_si.engines.embedding import Embedder

ENGINES = {
    "transformers": ("ray_si.engines.huggingface.engine:create", ("torch", "transformers")),
    "vllm": ("ray_si.engines.vllm:VLLMEngine", ("vllm",)),
    "openai": ("ray_si.engines.openai.engine:OpenAIEngine", ("openai",)),
    "reward": ("ray_si.engines.huggingface.reward:create", ("torch", "transformers")),
    "replay": ("ray_si.engines.replay.engine:ReplayEngine", ()),
}
"""Name -> (module:callable that makes it, packages it needs)."""

FROM_THE_DRIVER = ("openai", "replay")
"""Engines that a driver can check for its replicas: what they need lies on no node."""

_ITEMSIZES = {"auto": 2, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by ``generator.dtype``; auto is bfloat16 on hardware that has it."""


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
        if engine == "reward":
            check_reward_model(str(model), models.read_config(folder))
            return
        check_context(folder, requests, options.get("max_model_len"))
        check_turns(folder, requests)
        arguments, trusts = options.get("chat_template_kwargs"), options.get("trust_remote_code")
        check_rendering(folder, requests, arguments or {}, bool(trusts))
        if engine == "vllm":
            _check_spread(folder, options)


def check_fit(
    engine: str, model: str | None, options: dict[str, Any], have: int, cards: int
) -> str | None:
    """Hold a model's weights against memory: ``have`` bytes in each of ``cards`` processes.

    Raises EngineError where transformers cannot load them. What vLLM takes depends on more than
    their files say, so for it there is a warning, and its own word decides.
    """
    if engine in FROM_THE_DRIVER or not model or model in bundled.MODELS:
        return None
    options = {"dtype": "auto", **options}
    path = model if remote.is_remote(model) else models.resolve(model)
    try:
        check_memory(
            model,
            path,
            _ITEMSIZES.get(options["dtype"]),
            have * cards,
            revision=options.get("revision"),
        )
    except EngineError as error:
        if engine == "transformers":
            raise
        return str(error)
    return None


def create(engine: str, model: str | None, options: dict[str, Any]) -> Engine:
    """Load an engine; ``options`` are its keyword arguments."""
    module, _, name = ENGINES[engine][0].partition(":")
    made: Engine = getattr(importlib.import_module(module), name)(model=model, **options)
    return made


def embedder(model: str, device: str | None = None) -> Embedder:
    """Load a sentence-transformers model: bundled, a folder, or a hub name.

    ``device`` is torch's, by default a GPU where there is one. Raises EngineError.
    """
    from ray_si.engines.embedding import Embedder

    return Embedder(models.resolve(model), device)


def check_reward_model(model: str, config: dict[str, Any]) -> None:
    """Raise EngineError unless a model of this configuration gives one number to a text."""
    classes = config.get("architectures") or []
    labels = config.get("num_labels") or len(config.get("id2label", ("", "")))
    if not any(str(name).endswith("ForSequenceClassification") for name in classes) or labels != 1:
        what = f"{', '.join(map(str, classes)) or 'of no known class'} with {labels} labels"
        raise EngineError(
            f"{model} has no scalar head, so it gives no reward: it is {what}; name a "
            "sequence-classification model with one label"
        )


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
