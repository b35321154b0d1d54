"""What is stored of embeddings is what the gate compares, and says whose they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from ray_si.dedup.cosine.scalar import cosine, normalized
from ray_si.pipeline.embeddings import (
    candidate_embeddings,
    compact,
    embed_inputs,
    inputs_of,
    inputs_table,
)
from ray_si.records import Instance, SeedTask
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.ids import instruction_id
from ray_si.run.schemas import ACCEPTED, REFUSED_EMBEDDINGS, embedding_column, embeddings_of
from ray_si.storage.tables import from_parquet, to_parquet

SEEDS = [SeedTask(f"s{i}", "", f"seed {i}", (Instance("", "x"),), False) for i in range(3)]
SETS = [EvaluationSet("a", ["one", "two"]), EvaluationSet("b", ["three"])]


def encode(texts):
    rng = np.random.default_rng(7)
    return normalized(rng.standard_normal((len(texts), 24)))


@given(arrays(np.float16, (3, 5), elements=st.floats(-1, 1, width=16)))
def test_embeddings_come_back_from_storage_bit_for_bit(embeddings):
    table = pa.table({"embedding": embedding_column(embeddings)})
    stored = embeddings_of(from_parquet(to_parquet(table)))
    assert stored.tobytes() == embeddings.astype(np.float32).tobytes()
    assert compact(stored).tobytes() == embeddings.tobytes()


def test_more_embeddings_than_32_bits_count_stand_in_parts(monkeypatch):
    monkeypatch.setattr("ray_si.run.schemas._MOST_NUMBERS", 11)
    vectors = np.arange(35, dtype=np.float16).reshape(7, 5)
    column = embedding_column(vectors)
    assert [len(chunk) for chunk in column.chunks] == [2, 2, 2, 1]
    column.validate(full=True)
    table = pa.table({"embedding": column})
    assert (embeddings_of(table) == vectors).all()
    assert (embeddings_of(from_parquet(to_parquet(table))) == vectors).all()


@given(arrays(np.float32, (2, 384), elements=st.floats(-1, 1, width=32)))
def test_rounding_moves_a_cosine_by_less_than_a_thousandth(embeddings):
    exact, rounded = normalized(embeddings), normalized(compact(normalized(embeddings)))
    assert abs(cosine(*exact) - cosine(*rounded)) < 1e-3


def test_inputs_come_back_for_the_texts_that_they_are_of():
    inputs = embed_inputs(SEEDS, SETS, encode)
    assert [len(part) for part in inputs] == [3, 3]
    table = from_parquet(to_parquet(inputs_table(SEEDS, SETS, inputs)))
    read = inputs_of(table, SEEDS, SETS)
    assert np.array_equal(compact(read.seeds), inputs.seeds)
    assert np.array_equal(compact(read.sets), inputs.sets)
    assert inputs_of(table, SEEDS[:2], SETS) is None
    assert inputs_of(table, SEEDS, SETS[::-1]) is None


@pytest.mark.parametrize("broken", [[None] * 6, [[float("nan")]] * 6, [[1.0]] * 5 + [[1.0, 2.0]]])
def test_inputs_without_sound_embeddings_are_none(broken):
    table = inputs_table(SEEDS, SETS, embed_inputs(SEEDS, SETS, encode))
    column = pa.array(broken, table.schema.field("embedding").type)
    assert inputs_of(table.set_column(1, "embedding", column), SEEDS, SETS) is None


def test_candidates_of_a_round_are_found_by_their_ids():
    vectors = compact(encode(["a", "b", "c"]))
    rows = [{"id": instruction_id("r00000-00001", 0)}]
    accepted = pa.Table.from_pylist(rows, pa.schema([ACCEPTED.field("id")]))
    accepted = accepted.append_column("embedding", embedding_column(vectors[:1]))
    columns = [["r00000-00000", "r00000-00001"], [4, 1], embedding_column(vectors[1:])]
    refused = pa.table(columns, schema=REFUSED_EMBEDDINGS)
    stored = candidate_embeddings(accepted, refused)
    expected = {("r00000-00001", 0): 0, ("r00000-00000", 4): 1, ("r00000-00001", 1): 2}
    assert len(stored) == len(expected)
    for place, row in expected.items():
        assert np.array_equal(stored[instruction_id(*place)], vectors[row].astype(np.float32))
    assert len(candidate_embeddings(accepted, refused.slice(0, 0))) == 1
