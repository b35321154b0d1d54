"""What can be known of a model without loading its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ray_si.errors import EngineError, one_line
from ray_si.training.config import TrainingEncoding
from ray_si.training.provenance import RECORD

E = TypeVar("E", bound=TrainingEncoding)

_UNBOUNDED = 1 << 20


@dataclass(frozen=True)
class Base:
    """A model's tokenizer and limits. ``digest`` tells it from other models.

    ``context`` is in tokens, ``dtype`` the name of the type its weights are stored in, and
    ``stops`` are the tokens at which engines stop it.
    """

    path: str
    tokenizer: Any
    context: int
    dtype: str
    digest: str
    stops: frozenset[int]


def inspect(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Base:
    """Load configuration and tokenizer of a folder or hub model. Raises EngineError."""
    from transformers import AutoConfig, AutoTokenizer

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **source)
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
    except (OSError, ValueError) as error:
        raise EngineError(f"model {path!r} could not be loaded: {one_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise EngineError(f"the tokenizer of {path!r} has no end-of-sequence token")
    return Base(
        path,
        tokenizer,
        getattr(config, "max_position_embeddings", None) or _UNBOUNDED,
        str(config.dtype or "float32").removeprefix("torch."),
        weights_digest(path, getattr(config, "_commit_hash", None)),
        _stops(path, config, source) | {tokenizer.eos_token_id},
    )


def _stops(path: str, config: Any, source: dict[str, Any]) -> frozenset[int]:
    """Ends of sequence of a model's generation configuration, or of its configuration."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path, revision=source["revision"])
    except OSError:  # there is none
        generation = GenerationConfig.from_model_config(config)
    ends = generation.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [ends]) - {None}


def weights_digest(path: str, commit: str | None) -> str:
    """SHA-256, hex, of what tells a model from others without reading all of its weights.

    Of a folder: its configuration, tokenizer and the name, size, header and last MiB of each weight
    file. Of a hub model: its name and commit.
    """
    sha = hashlib.sha256()
    if not Path(path).is_dir():
        sha.update(json.dumps([path, commit]).encode())
        return sha.hexdigest()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in (".json", ".jinja") and file.name != RECORD:
            sha.update(file.name.encode() + file.read_bytes())
        elif file.suffix in (".safetensors", ".bin"):
            sha.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                sha.update(stream.read(1 << 20))
                stream.seek(max(0, file.stat().st_size - (1 << 20)))
                sha.update(stream.read())
    return sha.hexdigest()


def choose_encoding(wanted: E, tokenizer: Any, model: str) -> E | Literal["chat", "text"]:
    """What is wanted, "auto" decided; EngineError where chat is and there is no template."""
    if wanted == "chat" and not tokenizer.chat_template:
        raise EngineError(f"model {model!r} has no chat template; set encoding to text, or to auto")
    if wanted == "auto":
        return "chat" if tokenizer.chat_template else "text"
    return wanted
