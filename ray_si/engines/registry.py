"""Name -> engine, imported only when it is asked for."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_si.engines import bundled
from ray_si.engines.base import Engine, Request
from ray_si.engines.chat_template import check_labels
from ray_si.engines.context import check_context
from ray_si.errors import EngineError

if TYPE_CHECKING:
    from ray_si.engines.embedding import Embedder

ENGINES = {
    "transformers": ("ray_si.engines.huggingface.engine:create", ("torch", "transformers")),
    "vllm": ("ray_si.engines.vllm:VLLMEngine", ("vllm",)),
    "openai": ("ray_si.engines.openai.engine:OpenAIEngine", ("openai",)),
    "replay": ("ray_si.engines.replay.engine:ReplayEngine", ()),
}
"""Name -> (module:callable that makes it, packages it needs)."""

_HUB_HINT = (
    "without network, give a folder with the model's files, or one of the bundled names "
    f"({', '.join(sorted(bundled.MODELS))})"
)


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
    for package in ENGINES[engine][1]:
        _need(package, f"the {engine} engine")
    if engine == "replay":
        recording = (options or {}).get("recording")
        if recording:
            from ray_si.engines.replay.engine import load_recording

            load_recording(recording)
    elif engine == "openai":
        assert model
        from ray_si.engines.openai.engine import OpenAIEngine

        endpoint = OpenAIEngine(model, **options or {})
        with ThreadPoolExecutor(1) as thread:  # the caller's own may run an event loop already
            thread.submit(asyncio.run, endpoint.trial(requests)).result()
    else:
        folder = check_model(model)
        check_context(folder, requests, (options or {}).get("max_model_len"))
        check_labels(folder, requests, (options or {}).get("chat_template_kwargs", {}))


def check_model(model: str | None) -> Path:
    """Raise EngineError unless the model is bundled, a folder, or known to the hub.

    Returns the folder of its config.json, which need not be there yet for a bundled model.
    """
    if not model:
        raise EngineError("no model is named")
    if model in bundled.MODELS:
        return bundled.folder_of(model)
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise EngineError(f"the model folder {model} has no config.json")
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise EngineError(f"there is no model folder {model}; {_HUB_HINT}")
    _need("huggingface_hub", "a model from a hub")
    from huggingface_hub import hf_hub_download, logging as hub_logging
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # it warns at every try; one line from us says it all
    try:
        return Path(hf_hub_download(model, "config.json", etag_timeout=10)).parent
    except LocalEntryNotFoundError as error:
        raise EngineError(f"model {model!r}: no hub could be reached; {_HUB_HINT}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EngineError(
            f"model {model!r} was not found; check the name and your access rights; {_HUB_HINT}"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def create(engine: str, model: str | None, options: dict[str, Any]) -> Engine:
    """Load an engine; ``options`` are its keyword arguments."""
    module, _, name = ENGINES[engine][0].partition(":")
    made: Engine = getattr(importlib.import_module(module), name)(model=model, **options)
    return made


def embedder(model: str) -> Embedder:
    """Load a sentence-transformers model: bundled, a folder, or a hub name."""
    from ray_si.engines.embedding import Embedder

    return Embedder(bundled.resolve(model))


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise EngineError(f"{what} needs the package {package}: pip install {package}")
