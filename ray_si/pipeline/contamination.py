"""A run's evaluation sets, ready to be asked: in the driver, in workers, in a verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ray_si.config import RunConfig
from ray_si.dedup import ExcludedTexts
from ray_si.dedup.tokens import Tokenizer, tokenize
from ray_si.errors import ConfigError
from ray_si.records import SeedTask
from ray_si.run.evaluation import EvaluationSet, load_sets
from ray_si.run.run import Run


def checked_sets(config: RunConfig) -> list[EvaluationSet]:
    """The configuration's sets; CorpusError where one cannot be used.

    ConfigError where the ROUGE-L gate's tokenizer finds no token in one, so that it would keep
    nothing out.
    """
    sets = load_sets(config.decontaminate)
    tokenizer = config.dedup.tokenizer
    for path, evaluation_set in zip(config.decontaminate, sets, strict=True):
        if not any(tokenize(text, tokenizer) for text in evaluation_set.texts):
            raise ConfigError(
                f"{path}: the {tokenizer} tokenizer finds no token in any text; set "
                "dedup.tokenizer to auto"
            )
    return sets


def excluded_texts(
    config: RunConfig, sets: Sequence[EvaluationSet], embeddings: np.ndarray | None = None
) -> ExcludedTexts:
    """The sets' texts under the thresholds of ``dedup``.

    ``embeddings`` are those of all texts in order; without them no cosines are compared.
    """
    dedup = config.dedup
    excluded = ExcludedTexts(
        dedup.rouge,
        None if embeddings is None else dedup.cosine,
        words=config.decontaminate_ngram,
        tokenizer=dedup.tokenizer,
    )
    for item in sets:
        start = len(excluded)
        part = None if embeddings is None else embeddings[start : start + len(item.texts)]
        excluded.add(item.texts, part, source=item.name)
    return excluded


def excluded_texts_of_run(
    config: RunConfig, location: str, fingerprint: str
) -> ExcludedTexts | None:
    """What instances of the run there are held against, without cosines; None where there are no
    sets.

    Read once in a process, since Ray's workers ask for every block; anew where a run of another
    ``fingerprint``, so of other sets, stands there meanwhile.
    """
    if not config.decontaminate:
        return None
    dedup = config.dedup
    return _of_run(location, fingerprint, dedup.rouge, config.decontaminate_ngram, dedup.tokenizer)


@lru_cache(maxsize=1)
def _of_run(
    location: str, _fingerprint: str, rouge: float, words: int | None, tokenizer: Tokenizer
) -> ExcludedTexts:
    # one thread, since a worker has other workers beside it
    excluded = ExcludedTexts(rouge, words=words, tokenizer=tokenizer, threads=1)
    for item in Run.open(location).evaluation_sets():
        excluded.add(item.texts, source=item.name)
    return excluded


def seeds_alike(config: RunConfig, seeds: Sequence[SeedTask], sets: Sequence[EvaluationSet]) -> str:
    """What to say of seed tasks that resemble an evaluation set, by ROUGE-L; "" where none does."""
    matches = excluded_texts(config, sets).find([seed.instruction for seed in seeds])
    counts = Counter(match.source for match in matches)
    named = ", ".join(f"{count} {name}" for name, count in counts.items())
    return (
        f"seed tasks resemble evaluation texts, which prompts will show: {named}" if named else ""
    )
