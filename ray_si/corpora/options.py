"""Options of both verbs about near-duplicates."""

from __future__ import annotations

from ray_si.dedup.tokens import TOKENIZERS
from ray_si.errors import ConfigError


def parse_cosine(text: str) -> float | None:
    """A threshold, or None for "off"; ConfigError for anything else."""
    if text == "off":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--cosine is a number in (0, 1], or off, not {text!r}") from error


def check_thresholds(rouge: float, cosine: float | None, tokenizer: str) -> None:
    """ConfigError for thresholds outside (0, 1], or a tokenizer that there is not."""
    for name, threshold in (("--rouge", rouge), ("--cosine", cosine)):
        if threshold is not None and not 0 < threshold <= 1:
            raise ConfigError(f"{name} must lie in (0, 1], not {threshold}")
    if tokenizer not in TOKENIZERS:
        raise ConfigError(f"--tokenizer is one of {', '.join(TOKENIZERS)}, not {tokenizer!r}")
