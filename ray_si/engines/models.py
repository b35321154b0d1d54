"""A model's name -> the folder that has it: bundled, a folder, in a bucket, or on a hub."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from ray_si.engines import bundled, remote
from ray_si.errors import EngineError

_HUB_HINT = (
    "without network, give a folder with the model's files, or one of the bundled names "
    f"({', '.join(sorted(bundled.MODELS))})"
)


def resolve(model: str) -> str:
    """A path or hub name that transformers, sentence-transformers and vLLM can load.

    A model in a bucket, which is no embedder, is copied to this node first; see
    `ray_si.engines.bundled.resolve`.
    """
    return remote.local_copy(model) if remote.is_remote(model) else bundled.resolve(model)


def check_model(model: str | None, revision: str | None = None) -> Path:
    """Raise EngineError unless the model is bundled, a folder, in a bucket, or known to the hub.

    Returns the folder of its config.json, which need not be there yet for a bundled model. Seen
    from this machine; fetches no weights.
    """
    if not model:
        raise EngineError("no model is named")
    if model in bundled.MODELS:
        return bundled.folder_of(model)
    if remote.is_remote(model):
        return remote.glance(model)
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise EngineError(f"the model folder {model} has no config.json")
        return Path(model)
    if "://" in model:
        raise EngineError(f"{model}: a model may lie at {' or '.join(remote.SCHEMES)}")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise EngineError(f"there is no model folder {model}; {_HUB_HINT}")
    need("huggingface_hub", "a model from a hub")
    return _from_hub(model, revision)


def check_embedder(model: str) -> None:
    """`check_model` of a sentence-transformers model: a folder may have modules.json alone.

    One in a bucket may have none: it names folders, and what is copied are files.
    """
    if (Path(model) / "modules.json").is_file():
        return
    folder = check_model(model)
    if remote.is_remote(model) and (folder / "modules.json").is_file():
        raise EngineError(
            f"the embedder {model} has folders (modules.json), which are not copied from a bucket: "
            "give a folder that all nodes have, a bundled name, or a name on the hub"
        )


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, logging as hub_logging
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # it warns at every try; one line from us says it all
    try:
        path = hf_hub_download(model, "config.json", revision=revision, etag_timeout=10)
        return Path(path).parent
    except LocalEntryNotFoundError as error:
        raise EngineError(f"model {model!r}: no hub could be reached; {_HUB_HINT}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EngineError(
            f"model {model!r} was not found; check the name and your access rights; {_HUB_HINT}"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def read_config(folder: Path) -> dict[str, Any]:
    """A model's configuration, that of its text part laid over the rest; {} where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{path} is no JSON: {error}") from error
    return config | (config.get("text_config") or {})


def need(package: str, what: str) -> None:
    """Raise EngineError unless a package is installed here."""
    if importlib.util.find_spec(package) is None:
        raise EngineError(f"{what} needs the package {package}: pip install {package}")
