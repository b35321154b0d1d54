"""The gate of a configuration has its thresholds, and evaluation sets before it."""

from __future__ import annotations

import inspect
import zlib

import numpy as np
import pytest

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator, GuardedGate
from ray_si.dedup.layers import joined
from ray_si.pipeline.embeddings import compact
from ray_si.pipeline.gate import OpenGate, gate_options, guarded
from ray_si.run.evaluation import EvaluationSet
from tests.builds import replay_values


def test_every_option_of_the_gate_is_the_configurations():
    values = replay_values()
    values["dedup"] = {
        "rouge": 0.6, "cosine": 0.8, "tokenizer": "unicode", "embedding_index": "HNSW32",
        "most_similar": 2,
    }  # fmt: skip
    options = gate_options(parse_config(values).dedup, len)
    assert options == values["dedup"] | {"encoder": len}
    assert options.keys() == inspect.signature(Deduplicator).parameters.keys() - {"pool", "layers"}


def test_evaluation_sets_stand_before_the_gate_where_there_are_any():
    config = parse_config(replay_values())
    gate = Deduplicator(**gate_options(config.dedup))
    assert guarded(gate, config, []) is gate
    texts = ["Name three rivers of the country.", "Write a poem about the sea."]
    behind = guarded(gate, config, [EvaluationSet("rivers", texts[:1])])
    assert isinstance(behind, GuardedGate)
    result = behind.filter(texts)
    assert [texts[i] for i in result.accepted] == texts[1:]
    assert [(d.reason, d.source) for d in result.rejected] == [("contaminated", "rivers")]


def vectors_of(texts):
    """Vectors in which texts with a common first word lie close."""
    vectors = []
    for text in texts:
        words = [zlib.crc32(word.encode()) for word in text.split()]
        first, *rest = (np.random.default_rng(word).standard_normal(8) for word in words)
        vectors.append(3 * first + np.sum(rest, axis=0))
    return np.asarray(vectors, np.float32)


@pytest.mark.parametrize("sets", [[], [EvaluationSet("a", ["weigh a lake", "sing of mountains"])]])
def test_blocks_screened_apart_come_to_what_a_round_at_once_does(sets):
    values = replay_values()
    values["dedup"] = {"rouge": 0.7, "cosine": 0.9}
    config = parse_config(values)
    verbs, things = ("name", "weigh", "sort", "sing of"), ("a lake", "lakes", "rivers", "a sea")
    texts = [f"{verb} {thing}" for verb in verbs for thing in things for _ in range(2)]
    seeds, blocks = ["name rivers", "read books"], [texts[:11], [], texts[11:]]

    def gate(**options):
        behind = Deduplicator(**gate_options(config.dedup), **options)
        behind.add(seeds, compact(vectors_of(seeds)))
        of_sets = [text for item in sets for text in item.texts]
        embeddings = compact(vectors_of(of_sets)) if sets else None
        return OpenGate(guarded(behind, config, sets, embeddings), vectors_of, None)

    in_blocks, at_once = gate(layers=1), gate()
    screened = joined([in_blocks.screen(block, len(seeds)) for block in blocks])
    result = in_blocks.filter(texts, screened=screened)
    embeddings = at_once.embed(texts)
    expected = at_once.filter(texts, embeddings)
    assert np.array_equal(screened.embeddings, embeddings)
    assert (result.accepted, result.rejected) == (expected.accepted, expected.rejected)
    reasons = {duplicate.reason for duplicate in result.rejected}
    assert reasons == {"rouge", "cosine"} | ({"contaminated"} if sets else set())
    assert in_blocks.embed([]).shape == (0, 0)
