"""The gate of a run: the pool that it decides against, in the driver or over shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
from ray.util.placement_group import PlacementGroup

from ray_si.build.sharding.deduplicator import ShardedDeduplicator
from ray_si.build.sharding.pool import EmbeddedTexts
from ray_si.config import RunConfig
from ray_si.config.sections.dedup import Dedup
from ray_si.dedup import Deduplicator, EmbeddingIndex
from ray_si.dedup.cosine.device import bytes_of_a_row, bytes_of_a_search
from ray_si.dedup.deduplicator import Encoder
from ray_si.dedup.pool import EXACT_KINDS
from ray_si.errors import ConfigError, EngineError
from ray_si.pipeline.embeddings import embed_inputs, inputs_table, stored_inputs
from ray_si.pipeline.gate import OpenGate, gate_options, guarded, told_of_disk
from ray_si.records import SeedTask
from ray_si.run.checkpoint import CommittedRounds, accepted_tables
from ray_si.run.run import Run
from ray_si.run.schemas import embeddings_of

_SAME = 0.99
"""Cosine of two embeddings of a text by one model, at the least: processors differ by less."""


@contextmanager
def open_gate(
    config: RunConfig,
    run: Run,
    rounds: CommittedRounds,
    seeds: list[SeedTask],
    encode: Encoder,
    cards: PlacementGroup | None = None,
) -> Iterator[OpenGate]:
    """The gate with the run's pool in it: the seeds, and what its ``rounds`` accepted so far.

    ``cards`` are what `reserved_gpus` has for its shards; without, one shard is searched in this
    process. Evaluation sets stand in front of it, in this process however many shards the pool has.
    What the run began with is embedded once: a resume reads the embeddings back. Raises ConfigError
    where the pool cannot fit on the GPUs.
    """
    options, sets = config.dedup, run.evaluation_sets()
    texts = [seed.instruction for seed in seeds]
    inputs = None
    if options.cosine is not None:
        inputs = stored_inputs(run, seeds, sets)
        if inputs is None:
            inputs = embed_inputs(seeds, sets, encode)
        else:
            known = np.flatnonzero(inputs.seeds.any(axis=1))[:1]  # one that its words are known of
            if len(known):
                _check_embedder(config, encode([texts[known[0]]]), inputs.seeds[known])
    human: EmbeddedTexts = (texts, inputs and inputs.seeds)
    settings = gate_options(options)
    if can_screen(options):
        settings["layers"] = config.bootstrap.lookahead
    restore = partial(_committed, human, run.location)
    with told_of_disk(), ExitStack() as stack:
        gate: Deduplicator
        if options.shards == 1 and cards is None:
            gate = Deduplicator(**settings)
        else:
            gate = sharded = ShardedDeduplicator(
                options.shards, restore=restore, cards=cards, **settings
            )
            stack.enter_context(sharded)
            if inputs is not None and sharded.free_bytes is not None:
                _check_room(config, inputs.seeds.shape[1], sharded.free_bytes)
        tables = rounds.tables if inputs is None else rounds.with_embeddings()
        for batch in _pool(human, tables):
            _check_dimension(config, human[1], batch[1])
            gate.add(*batch)
            gate.settle()  # else this process has every embedding until the last has come
            if isinstance(gate, ShardedDeduplicator):
                gate.rely_on_restore()
        if inputs is None:
            yield OpenGate(guarded(gate, config, sets), None, None)
        else:
            before = guarded(gate, config, sets, inputs.sets)
            yield OpenGate(before, encode, inputs_table(seeds, sets, inputs))


def _check_room(config: RunConfig, dimension: int, free: int) -> None:
    """Raise ConfigError where a shard's embeddings and a search take more than its GPU has free."""
    shards, target = config.dedup.shards, config.target_instructions
    need = -(-target // shards) * bytes_of_a_row(dimension) + bytes_of_a_search(dimension)
    if need > free:
        raise ConfigError(
            f"target_instructions {target:,}: embeddings, and a search among them, take "
            f"{need / 1e9:.1f} GB of a GPU for each of {shards} shards, and {free / 1e9:.1f} are "
            "free: raise dedup.shards, or set dedup.gpus to 0"
        )


def can_screen(options: Dedup) -> bool:
    """Whether candidates may be screened before their round is complete; see `Deduplicator`."""
    return options.cosine is None or options.embedding_index in EXACT_KINDS


def _check_embedder(config: RunConfig, again: np.ndarray, stored: np.ndarray) -> None:
    """Raise EngineError where it does not embed a text, or several, as the run has them stored."""
    _check_dimension(config, again, stored)
    products = EmbeddingIndex.normalize(again) * EmbeddingIndex.normalize(stored)
    cosine = float(products.sum(axis=1).min())
    if cosine < _SAME:
        raise EngineError(
            f"the embedder {config.embedder.model} is another than that of the run so far (its "
            f"embedding of a text has a cosine of {cosine:.2f} with the run's): restore the model "
            "it was begun with"
        )


def _check_dimension(config: RunConfig, new: np.ndarray | None, stored: np.ndarray | None) -> None:
    """Raise EngineError where the embedder is another than that of the run so far."""
    if new is not None and stored is not None and new.shape[1] != stored.shape[1]:
        raise EngineError(
            f"the embedder {config.embedder.model} gives {new.shape[1]} numbers for a text, and "
            f"the run's instructions have {stored.shape[1]}: restore the model it was begun with"
        )


def _committed(human: EmbeddedTexts, location: str) -> Iterator[EmbeddedTexts]:
    """The pool as the run has it, from its beginning; runs in a gate shard."""
    tables = accepted_tables(Run.open(location), embeddings=human[1] is not None)
    yield from _pool(human, tables)


def _pool(human: EmbeddedTexts, tables: Iterable[pa.Table]) -> Iterator[EmbeddedTexts]:
    """What the gate decides against: the seeds, and what was accepted, as it was.

    ``tables`` have the column ``embedding`` where the seeds are embedded.
    """
    texts, embeddings = human
    yield texts, None if embeddings is None else EmbeddingIndex.normalize(embeddings)
    for table in tables:
        vectors = None if embeddings is None else embeddings_of(table)
        if vectors is not None:
            vectors = EmbeddingIndex.normalize(vectors)
        yield table["instruction"].to_pylist(), vectors
