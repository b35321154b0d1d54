"""A row type says what the Arrow schema of its table says; stored runs depend on every field."""

from __future__ import annotations

import hashlib
import typing

import pyarrow as pa
import pytest

from ray_si.run import schemas

TABLES = [
    (schemas.SEEDS, schemas.SeedRow),
    (schemas.EVALUATION_TEXTS, schemas.EvaluationTextRow),
    (schemas.RAW_BLOCK, schemas.RawRow),
    (schemas.ACCEPTED, schemas.AcceptedRow),
    (schemas.REJECTED, schemas.RejectedRow),
    (schemas.INSTANCE_BLOCK, schemas.InstanceRow),
    (schemas.TRAINING_ROWS, schemas.TrainingRow),
]
FURTHER = {
    schemas.InstanceRow: [*schemas.INSTANCE_BLOCK_IN_STEPS][len(schemas.INSTANCE_BLOCK) :],
    schemas.TrainingRow: [schemas.REASONING, *schemas.ANSWERED],
}
"""Columns that only some runs have."""
STRUCTS = [
    (schemas.INSTANCE, schemas.InstanceText),
    (schemas.REJECTED_INSTANCE, schemas.RejectedInstance),
    (schemas.ASKED_INPUT, schemas.AskedInput),
    (schemas.ANSWER, schemas.AnswerRow),
    (schemas.NEIGHBOUR, schemas.Neighbour),
]
SCALARS = {pa.string(): str, pa.int64(): int, pa.float64(): float, pa.bool_(): bool}


def python_type(kind):
    """What ``to_pylist`` makes of an Arrow type."""
    if pa.types.is_list(kind):
        inner = kind.value_type
        if pa.types.is_floating(inner):
            return typing.get_type_hints(schemas.AcceptedRow)["embedding"].__args__[0]
        return list[python_type(inner)]
    return dict(STRUCTS).get(kind) or SCALARS[kind]


@pytest.mark.parametrize(("fields", "row"), [*TABLES, *STRUCTS], ids=lambda item: str(item)[-30:])
def test_a_row_type_has_the_fields_of_its_schema(fields, row):
    hints = typing.get_type_hints(row)
    assert sorted(row.__required_keys__) == sorted(field.name for field in fields)
    further = FURTHER.get(row, [])
    assert row.__optional_keys__ == {field.name for field in further}
    for field in (*fields, *further):
        kind = python_type(field.type)
        nullable = field.name in schemas.NULLABLE or field is schemas.REASONING
        assert hints[field.name] == (kind | None if nullable else kind), field.name


def test_every_nullable_column_is_one_of_some_table():
    further = {field.name for fields in FURTHER.values() for field in fields}
    names = further.union(*(fields.names for fields, _ in TABLES), schemas.ANSWER.names)
    assert names > schemas.NULLABLE - {"source"}


@pytest.mark.parametrize(
    ("schema", "digest"),
    [
        (schemas.RAW_BLOCK, "baddb9fdc22eedbd"),
        (schemas.ACCEPTED, "f924cab31c7137d8"),
        (schemas.REJECTED, "9da7f28a6493292d"),
        (schemas.INSTANCE_BLOCK, "1a534464c3ae6e83"),
        (schemas.TRAINING_ROWS, "3578ce18d696c420"),
    ],
    ids=["raw", "accepted", "rejected", "instances", "training"],
)
def test_schemas_are_those_of_runs_stored_today(schema, digest):
    assert hashlib.sha256(str(schema).encode()).hexdigest()[:16] == digest


def test_columns_are_selected_in_the_order_asked_for():
    part = schemas.select(schemas.ACCEPTED, ["embedding", "id"])
    assert part.names == ["embedding", "id"]
    with pytest.raises(KeyError):
        schemas.select(schemas.ACCEPTED, ["nothing"])


def test_embeddings_are_those_of_the_rows_or_none():
    empty = schemas.ACCEPTED.empty_table()
    assert schemas.embeddings_of(empty) is None
    rows = [{"id": "a", "embedding": [1.0, 2.0]}, {"id": "b", "embedding": [3.0, 4.0]}]
    vectors = schemas.embeddings_of(empty.from_pylist(rows, schemas.ACCEPTED))
    assert vectors.tolist() == [[1, 2], [3, 4]]
    for damaged in (None, [1.0], [1.0, float("nan")], []):
        table = empty.from_pylist([rows[0], {"id": "b", "embedding": damaged}], schemas.ACCEPTED)
        assert schemas.embeddings_of(table) is None
