"""Whether the prompts of a run fit into the model's context, known before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ray_si.engines.base import Request
from ray_si.engines.models import read_config
from ray_si.engines.openai.protocol import estimate_tokens
from ray_si.errors import EngineError

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""What configurations of models call their context, likeliest first."""

_TURN = 16
"""Tokens that a chat template adds to a turn, generously."""


def check_context(folder: Path, requests: Sequence[Request], context: int | None = None) -> None:
    """Raise EngineError where one of these requests exceeds the context with its completion.

    ``folder`` holds the model's config.json, and its tokenizer.json if there is one: without,
    tokens are estimated. ``context`` is what the engine is limited to, else it is the model's own;
    a model that names none passes.
    """
    context = context or _context_of(folder)
    if context is None:
        return
    count = _counter(folder / "tokenizer.json")
    for request in requests:
        prompt, written = count(request), request.sampling.max_tokens
        if prompt + written > context:
            raise EngineError(
                f"prompts for {request.purpose} may have {prompt} tokens, and with {written} of "
                f"completion exceed the context of {context}: lower "
                f"generator.sampling.{request.purpose}.max_tokens, or shorten prompts by "
                "bootstrap.demonstrations, .max_demonstration_words or .max_words"
            )


def _context_of(folder: Path) -> int | None:
    config = read_config(folder)
    lengths = [config[name] for name in _LENGTHS if isinstance(config.get(name), int)]
    return lengths[0] if lengths else None


def _counter(path: Path) -> Callable[[Request], int]:
    if not path.is_file():
        return estimate_tokens
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def count(request: Request) -> int:
        if isinstance(request.prompt, str):
            return len(tokenizer.encode(request.prompt).ids)
        return sum(len(tokenizer.encode(turn["content"]).ids) + _TURN for turn in request.prompt)

    return count
