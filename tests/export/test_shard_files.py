"""Lines into shards: where they are cut, what is in them, what is said of them."""

from __future__ import annotations

import gzip
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from ray_si.export import shard_files
from ray_si.export.shard_files import KINDS, ShardFiles

SCHEMA = pa.schema([("text", pa.string())])


def content(path, kind):
    data = path.read_bytes()
    if kind == "parquet":
        return [json.dumps(row).encode() + b"\n" for row in pq.read_table(path).to_pylist()]
    if kind == "jsonl.gz":
        data = gzip.decompress(data)
    if kind == "jsonl.zst":
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            data = stream.read()
    return data.splitlines(keepends=True)


def write(folder, kind, lines, part=4, **limits):
    with ShardFiles(folder, kind, SCHEMA, **limits) as files:
        for start in range(0, len(lines), part):
            files.add(lines[start : start + part])
        return files.finish()


def one_by_one(lines, rows, bytes_):
    """The definition of a cut."""
    shards = []
    for line in lines:
        full = not shards or len(shards[-1]) == rows
        if full or (bytes_ and sum(map(len, shards[-1])) + len(line) > bytes_):
            shards.append([])
        shards[-1].append(line)
    return shards


@given(
    st.lists(st.text(max_size=12), max_size=30),
    st.sampled_from(KINDS),
    st.none() | st.integers(1, 9),
    st.none() | st.integers(1, 90),
    st.integers(1, 7),
    st.integers(1, 60),
)
def test_shards_are_cut_as_one_by_one_and_hold_the_lines(
    tmp_path_factory, texts, kind, rows, bytes_, part, block
):
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
    folder = tmp_path_factory.mktemp("shards") / "train"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_BLOCK", "_GROUP"):
            patch.setattr(shard_files, name, block)
        written = write(folder, kind, lines, part, rows=rows, bytes_=bytes_)
    assert [content(shard.path, kind) for shard in written] == one_by_one(lines, rows, bytes_)
    for shard in written:
        data = shard.path.read_bytes()
        assert shard.rows == len(content(shard.path, kind))
        assert (shard.size, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_megabytes_passes(tmp_path, kind):
    lines = [json.dumps({"text": "x" * (9 << 20)}).encode() + b"\n", b'{"text": "y"}\n']
    (shard,) = write(tmp_path / "train", kind, lines)
    assert content(shard.path, kind) == lines


def test_text_that_looks_like_a_date_stays_text(tmp_path):
    (shard,) = write(tmp_path / "train", "parquet", [b'{"text": "2024-01-01T00:00:00"}\n'])
    assert pq.read_table(shard.path).to_pylist() == [{"text": "2024-01-01T00:00:00"}]


def test_an_error_of_a_thread_is_raised(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write(tmp_path / "train", "parquet", [b'{"other": 1}\n'])


def test_without_lines_there_is_no_shard(tmp_path):
    assert write(tmp_path / "train", "jsonl", []) == []
