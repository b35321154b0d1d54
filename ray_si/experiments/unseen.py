"""Examples that no model in an evaluation has been near in its training."""

from __future__ import annotations

from collections.abc import Sequence

from ray_si.dedup import ExcludedTexts
from ray_si.engines import registry
from ray_si.run.evaluation import texts_of_instance
from ray_si.training.config import Evaluation
from ray_si.training.tasks import Example


def unseen(
    examples: Sequence[Example], trained_on: Sequence[str], options: Evaluation
) -> list[Example]:
    """The examples that resemble none of the texts of a training.

    Held against them are an example's instruction, its input, and both together, by the gates of a
    build: ROUGE-L above ``exclude_rouge``, cosine above ``exclude_cosine``.
    """
    if not trained_on:
        return list(examples)
    asked: dict[str, int] = {}
    for example in examples:
        for text in _texts(example):
            asked.setdefault(text, len(asked))
    cosine = options.exclude_cosine
    excluded = ExcludedTexts(options.exclude_rouge, cosine)
    if cosine is None:
        excluded.add(trained_on, source="training")
        near = excluded.find(list(asked))
    else:
        encode = registry.embedder(options.embedder).encode
        excluded.add(trained_on, encode(list(trained_on)), source="training")
        near = excluded.find(list(asked), encode(list(asked)))
    seen = {match.index for match in near}
    return [e for e in examples if not any(asked[text] in seen for text in _texts(e))]


def _texts(example: Example) -> list[str]:
    return [
        example.instruction,
        *texts_of_instance(example.instruction, example.instance.input),
    ]
