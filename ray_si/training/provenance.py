"""Which seed tasks a model comes from, as far as `ray-si finetune` left a record of it.

A model is made of others: its base, the generator that wrote its data, and the base below an
adapter. What each of them was trained on, the model was trained on too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_si.engines import bundled, remote
from ray_si.errors import EngineError, one_line
from ray_si.records import SeedTask
from ray_si.run.evaluation import texts_of_item

RECORD = "ray_si.json"
"""Lies in the folder of a model that `ray-si finetune` made: what it was trained on."""

LOADING = ("transformers", "vllm")
"""Engines that load a model themselves, from a folder, a bucket or a hub."""

_ADAPTER = "adapter_config.json"

logger = logging.getLogger(__name__)


def texts_of_seeds(seeds: Iterable[SeedTask]) -> list[str]:
    """What of seed tasks no evaluation may resemble, each text once; see `texts_of_item`."""
    texts = (
        text
        for seed in seeds
        for text in texts_of_item(seed.instruction, [instance.input for instance in seed.instances])
    )
    return list(dict.fromkeys(texts))


@dataclass(frozen=True)
class ModelName:
    """A model or an adapter: a bundled name, a folder, an address in a bucket, or on a hub.

    Without ``on_hub`` it is no name of a hub, such as one that an endpoint knows.
    """

    name: str
    revision: str | None = None
    on_hub: bool = True


def seed_texts(models: Iterable[ModelName]) -> list[str]:
    """`texts_of_seeds` behind these models, from their own records and those of what they are of.

    Models without a record count as trained on nothing.
    """
    waiting = list(models)
    texts: dict[str, None] = {}
    seen: set[ModelName] = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        record = _read(model, RECORD)
        # early records have the instructions of their own run alone
        texts |= dict.fromkeys(record.get("seed_texts") or record.get("seed_instructions") or ())
        adapter = _read(model, _ADAPTER)
        if record.get("base_model"):
            settings = record.get("settings") or {}
            waiting.append(ModelName(record["base_model"], settings.get("revision")))
        if adapter.get("base_model_name_or_path"):
            waiting.append(ModelName(adapter["base_model_name_or_path"], adapter.get("revision")))
    return list(texts)


def generators_of(config: Mapping[str, Any]) -> Iterator[ModelName]:
    """The models that wrote a run's data, by the run's stored configuration."""
    for part in ("generator", "instance_generator"):
        generator = config.get(part) or {}
        if generator.get("model"):
            loads = generator.get("engine") in LOADING
            yield ModelName(generator["model"], generator.get("revision"), loads)
        if adapter := (generator.get("vllm") or {}).get("lora"):
            yield ModelName(adapter)


def _read(model: ModelName, name: str) -> dict[str, Any]:
    """A JSON file of a model, {} where it has none or cannot be reached. Raises EngineError."""
    path = _locate(model, name)
    if path is None or not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{path} is no JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise EngineError(f"{path} is no JSON object")
    return value


def _locate(model: ModelName, file: str) -> Path | None:
    if model.name in bundled.MODELS:
        return None
    if remote.is_remote(model.name):
        return remote.glance(model.name) / file
    if Path(model.name).exists() or not model.on_hub:
        return Path(model.name) / file
    return _from_hub(model, file)


def _from_hub(model: ModelName, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        path = hf_hub_download(model.name, file, revision=model.revision, etag_timeout=10)
    except LocalEntryNotFoundError:
        logger.warning("no hub answers whether %s was trained on seed tasks", model.name)
        return None
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None  # no such file, or no such model any more
    return Path(path)
