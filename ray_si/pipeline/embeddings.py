"""The embeddings that a run's gate compares: what is stored of them, and read back.

Everything that a cosine gate may compare is stored, so that its decisions can be taken again
without the model: the seed tasks and the evaluation sets in the first round, and what came to the
gate in each, whether ROUGE-L had refused it or not. Embeddings are rounded to 16 bits before they
are compared (`compact`), so decisions on what is stored are those of the run, to the last bit. What
was accepted has its embedding in its row, the rest in an object of its own, which a resume does not
read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ray_si.errors import RunError
from ray_si.records import SeedTask
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.ids import instruction_id
from ray_si.run.run import Run, optional_part_key
from ray_si.run.schemas import INPUT_EMBEDDINGS, embedding_column, embeddings_of


class InputEmbeddings(NamedTuple):
    """Of the seed tasks, and of the texts of all evaluation sets, in order; (n, dimension)."""

    seeds: np.ndarray
    sets: np.ndarray


def compact(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of length 1 at most as the gate compares and a run stores them: float16.

    A cosine moves by some 1e-5, and by less than 1e-3 in any case.
    """
    return np.asarray(embeddings).astype(np.float16)


def embed_inputs(
    seeds: Sequence[SeedTask],
    sets: Sequence[EvaluationSet],
    encode: Callable[[list[str]], np.ndarray],
) -> InputEmbeddings:
    """The embeddings of what a run begins with, float16."""
    embeddings = compact(encode(_texts(seeds, sets)))
    return InputEmbeddings(embeddings[: len(seeds)], embeddings[len(seeds) :])


def inputs_table(
    seeds: Sequence[SeedTask], sets: Sequence[EvaluationSet], inputs: InputEmbeddings
) -> pa.Table:
    """They as the rows of `INPUT_EMBEDDINGS`."""
    embeddings = compact(np.concatenate(inputs))
    return pa.table([_texts(seeds, sets), embedding_column(embeddings)], schema=INPUT_EMBEDDINGS)


def inputs_of(
    table: pa.Table, seeds: Sequence[SeedTask], sets: Sequence[EvaluationSet]
) -> InputEmbeddings | None:
    """The inverse of `inputs_table`; None where the table is of other texts, or unsound."""
    embeddings = embeddings_of(table)
    if embeddings is None or table["text"].to_pylist() != _texts(seeds, sets):
        return None
    return InputEmbeddings(embeddings[: len(seeds)], embeddings[len(seeds) :])


def stored_inputs(
    run: Run, seeds: Sequence[SeedTask], sets: Sequence[EvaluationSet]
) -> InputEmbeddings | None:
    """What the first round of a run has stored; None before that, and in runs of earlier versions.

    Raises RunError where it is damaged.
    """
    manifest = run.round_manifest(0)
    key = manifest and optional_part_key(manifest, "inputs")
    if key is None:
        return None
    inputs = inputs_of(run.read(key), seeds, sets)
    if inputs is None:
        raise RunError(f"{run.location} is damaged: {key} holds no embeddings of its inputs")
    return inputs


def candidate_embeddings(accepted: pa.Table, refused: pa.Table) -> dict[str, np.ndarray]:
    """Id -> embedding of what came to a round's gate: accepted rows, and `REFUSED_EMBEDDINGS`.

    Float32. What has no embedding, or an unsound one, is left out.
    """
    places = zip(refused["request_id"].to_pylist(), refused["position"].to_pylist(), strict=True)
    ids = [accepted["id"].to_pylist(), [instruction_id(*place) for place in places]]
    embeddings: dict[str, np.ndarray] = {}
    for names, table in zip(ids, (accepted, refused), strict=True):
        if (vectors := embeddings_of(table)) is not None:
            embeddings.update(zip(names, vectors, strict=True))
    return embeddings


def _texts(seeds: Sequence[SeedTask], sets: Sequence[EvaluationSet]) -> list[str]:
    return [seed.instruction for seed in seeds] + [text for item in sets for text in item.texts]
