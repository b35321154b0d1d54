"""The gate of a configuration has its thresholds, and evaluation sets before it."""

from __future__ import annotations

import inspect

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator, GuardedGate
from ray_si.pipeline.gate import gate_options, guarded
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
