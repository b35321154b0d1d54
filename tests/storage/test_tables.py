"""Tables as objects: the same rows back, digests that notice, one winner."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from ray_si.errors import RunError
from ray_si.storage.local import LocalObjects
from ray_si.storage.tables import (
    claim_table,
    describe_table,
    from_bytes,
    read_named,
    read_stored,
    read_table,
    to_bytes,
    to_parquet,
    write_table,
)

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("tags", pa.list_(pa.string()))])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(-(2**63), 2**63 - 1),
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "tags": st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
        }
    ),
    max_size=6,
)


def table_of(rows):
    return pa.Table.from_pylist(rows, SCHEMA)


@pytest.mark.parametrize("key", ["a.parquet", "a.jsonl"])
@given(rows=ROWS)
def test_both_formats_give_the_rows_back_and_the_columns_asked_for(key, rows):
    table = table_of(rows)
    data = to_bytes(key, table)
    assert from_bytes(key, data, SCHEMA.names, SCHEMA).to_pylist() == rows
    texts = [{"text": row["text"]} for row in rows]
    assert from_bytes(key, data, ["text"], SCHEMA).to_pylist() == texts
    assert to_bytes(key, table) == data


def test_what_a_manifest_says_is_of_the_bytes_that_lie_there(tmp_path):
    objects, table = LocalObjects(tmp_path), table_of([{"id": 1, "text": "é", "tags": []}])
    info = write_table(objects, "part.parquet", table)
    data = (tmp_path / "part.parquet").read_bytes()
    assert (info.rows, info.size, info.sha256) == (1, len(data), hashlib.sha256(data).hexdigest())
    assert describe_table("part.parquet", table) == info
    assert read_named(objects, "RUN", info, "manifest.json") == data
    (tmp_path / "part.parquet").write_bytes(data[:-1] + b"x")
    with pytest.raises(RunError, match=r"RUN/part\.parquet is damaged: .* manifest\.json says"):
        read_named(objects, "RUN", info, "manifest.json")
    (tmp_path / "part.parquet").unlink()
    with pytest.raises(RunError, match=r"part\.parquet is missing"):
        read_named(objects, "RUN", info, "manifest.json")


def test_the_first_to_claim_a_key_has_it_and_the_second_gets_what_stands_there(tmp_path):
    objects = LocalObjects(tmp_path)
    first, second = (table_of([{"id": k, "text": "t", "tags": ["a"]}]) for k in (1, 2))
    mine = claim_table(objects, "block.parquet", first)
    theirs = claim_table(objects, "block.parquet", second)
    assert theirs[1] == mine[1] == read_stored(objects, "block.parquet")[1]
    assert theirs[0].to_pylist() == first.to_pylist()
    assert read_table(objects, "block.parquet", ["id"]).to_pylist() == [{"id": 1}]


def test_embeddings_have_an_encoding_of_their_own_and_other_columns_what_they_ever_had():
    numbers = np.linspace(0, 1, 1000, dtype=np.float16)
    embedding = pa.array([numbers] * 3, pa.list_(pa.float16()))
    nested = pa.array([[{"a": "x", "b": [1]}]] * 3)
    plain = pa.table({"text": ["a", "b", "b"], "nested": nested})
    table = plain.append_column("embedding", embedding)
    with pq.ParquetFile(pa.BufferReader(to_parquet(table))) as stored:
        assert stored.read().equals(table)
        group = stored.metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.path_in_schema: column.has_dictionary_page for column in columns} == {
        "text": True,
        "nested.list.element.a": True,
        "nested.list.element.b.list.element": True,
        "embedding.list.element": False,
    }
    assert "BYTE_STREAM_SPLIT" in columns[-1].encodings
    buffer = pa.BufferOutputStream()
    pq.write_table(plain, buffer, compression="zstd")
    assert to_parquet(plain) == buffer.getvalue().to_pybytes()


def test_many_embeddings_come_back_whatever_they_are_and_some_rows_without():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**16, (20_000, 3), np.uint16)
    bits[bits & 0x7C00 == 0x7C00] = 0  # infinite, or no numbers, which equal nothing
    rows = [None if i % 7 == 0 else row for i, row in enumerate(bits.view(np.float16))]
    table = pa.table(
        {"id": np.arange(len(rows)), "embedding": pa.array(rows, pa.list_(pa.float16()))}
    )
    data = to_parquet(table)
    assert to_parquet(pa.concat_tables([table[:100], table[100:]])) == data
    assert from_bytes("a.parquet", data, ["embedding", "id"], table.schema).equals(
        table.select(["embedding", "id"])
    )
