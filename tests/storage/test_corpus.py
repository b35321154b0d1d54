"""Corpora are read exactly, and written whole or not at all."""

from __future__ import annotations

import gzip
import json
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ray_si.errors import CorpusError
from ray_si.storage import corpus
from ray_si.storage.corpus import open_corpus
from ray_si.storage.corpus_writer import open_writer
from ray_si.storage.files import locate, staged

LINES = [
    b'{"text": "a",  "n": 1}\n',
    b'{"n": 1.50, "text": "\\u00e9t\\u00e9"}\r\n',
    '{"text": "né", "more": {"x": [null]}}\n'.encode(),
]


def read(path, *fields, rows=10_000):
    return list(open_corpus(locate(str(path)), *(fields or ("text",))).batches(rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines_come_back_byte_for_byte(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with closing(open_writer(str(path), str(path), None)) as writer:
        writer.write(LINES)
    (batch,) = read(path)
    assert batch.texts == ["a", "été", "né"]
    assert batch.take([0, 1, 2]) == LINES
    assert batch.done == path.stat().st_size
    assert (path.read_bytes() == b"".join(LINES)) == (suffix == ".jsonl")


def test_blank_lines_a_byte_order_mark_and_a_missing_line_end_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES[0] + b"\n  \n" + LINES[1] + LINES[2].rstrip(b"\n"))
    (batch,) = read(path)
    assert batch.numbers == [1, 4, 5]
    assert batch.take([0, 1, 2]) == LINES


def test_gzip_of_several_members_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"".join(map(gzip.compress, LINES)))
    assert [batch.texts for batch in read(path)] == [["a", "été", "né"]]


def test_batches_end_at_their_rows_or_when_they_are_large(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "short"}\n' * 25)
    batches = read(path, rows=10)
    assert [len(batch.texts) for batch in batches] == [10, 10, 5]
    assert [batch.done for batch in batches] == [180, 360, 450]
    text = "x" * 1_000_000
    path.write_bytes(b'{"text": "%s"}\n' % text.encode() * 100)
    sizes = [len(batch.texts) for batch in read(path)]
    assert sum(sizes) == 100
    assert max(sizes) < 70
    pq.write_table(pa.table({"text": [f"{i}{text}" for i in range(100)]}), tmp_path / "a.parquet")
    sizes = [len(batch.texts) for batch in read(tmp_path / "a.parquet")]
    assert sum(sizes) == 100
    assert max(sizes) < 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n\n{"text" "b"}', r"line 3: not valid JSON at 9 \(Expecting ':'"),
        (b'{"text": "a"}\n["a"]', "line 2: not a JSON object; mend or remove"),
        (b'{"n": 1, "m": 2}', "a.jsonl: no field 'text'; there are: n, m; name one with --text"),
        (b'{"text": "a"}\n{"n": 1}', "line 2: no field 'text'; there are: n;"),
        pytest.param(
            b'{"text": "a"}\n{"%s": 1}' % (b"n\\n" * 999), "are: (n ){99}n…; mend", id="a long name"
        ),
        (b'{"text": "a"}\n{"text": null}', "line 2: field 'text' is null, not a string"),
        (b'{"text": "a"}\n{"text": 1.5}', "line 2: field 'text' is a number, not a string"),
        (b'{"text": ["a"]}', "line 1: field 'text' is an array"),
        (b'{"text": "a"}\n{"text": "\xe9"}', "line 2: not UTF-8 at byte 11"),
        (b'{"text": "a"}\n{"text": "\\ud800"}', "line 2: field 'text' has half a surrogate pair"),
        (b'{"text": "a"}\n' + b"[" * 100_000, "line 2: not JSON that can be read"),
        ('{"text": "a"}'.encode("utf-16"), "line 1: not UTF-8 at byte 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, data, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_damaged_compression_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with closing(open_writer(str(path), str(path), None)) as writer:
        writer.write([b'{"text": "%d"}\n' % (i * 7919) for i in range(100_000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match="cannot read"):
        read(path)
    path.write_bytes(b'{"text": "not compressed"}\n')
    with pytest.raises(CorpusError, match="cannot read"):
        read(path)


def test_parquet_rows_and_schema_survive(tmp_path):
    table = pa.table(
        {
            "text": pa.array([f"t{i % 50}" for i in range(1000)]).dictionary_encode(),
            "large": pa.array([f"{i}" for i in range(1000)], pa.large_string()),
            "nested": [{"a": [i, None]} for i in range(1000)],
        }
    ).replace_schema_metadata({"made by": "a test"})
    pq.write_table(table, tmp_path / "a.parquet", 300, use_compliant_nested_type=False)
    corpus = open_corpus(locate(str(tmp_path / "a.parquet")), "text")
    batches = list(corpus.batches(70))
    assert [n for batch in batches for n in batch.numbers] == list(range(1, 1001))
    assert batches[-1].done == corpus.size == 1000
    assert batches[0].texts[:2] == ["t0", "t1"]
    out = str(tmp_path / "b.parquet")
    with closing(open_writer(out, out, corpus.schema)) as writer:
        for batch in batches:
            writer.write(batch.take(range(len(batch.texts))))
    back = pq.read_table(tmp_path / "b.parquet")
    assert back.schema.equals(table.schema, check_metadata=True)
    assert back.to_pylist() == table.to_pylist()
    assert pq.ParquetFile(tmp_path / "b.parquet").num_row_groups == 1
    assert read(tmp_path / "a.parquet", "large")[-1].texts[-1] == "999"


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"

    def refused(table, message, *fields):
        pq.write_table(table, path)
        with pytest.raises(CorpusError, match=message):
            read(path, *fields)

    refused(pa.table({"text": ["a", None]}), "a.parquet, row 2: column 'text' is null")
    refused(pa.table({"text": [1]}), "column 'text' is of type int64, not string")
    refused(pa.table({"n": [1], "m": [2]}), "no field 'text'; there are: n, m")
    refused(pa.table([["a"], ["b"]], names=["text", "text"]), "no field 'text'")
    latin = pa.array([b"a", b"\xe9"]).view(pa.string())
    refused(pa.table({"text": latin}), "a.parquet, row 2: column 'text' is not UTF-8")
    path.write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(CorpusError, match=r"cannot read .*a.parquet"):
        read(path)
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(10_000)]}), path)
    data = bytearray(path.read_bytes())
    data[100:20_000] = b"\xff" * 19_900
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"cannot read .*a.parquet"):
        read(path)


def test_the_first_field_that_is_there_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"instruction": "i", "text": "t"}\n')
    assert read(path, "absent", "instruction", "text")[0].texts == ["i"]


def test_s3_is_read_and_written(s3, tmp_path):
    target = "s3://data/a folder/50% #1?.jsonl.zst"
    with staged(locate(target)) as (path,), closing(open_writer(path, target, None)) as writer:
        writer.write(LINES)
    assert [batch.take([0, 1, 2]) for batch in read(target)] == [LINES]
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    s3.upload_file(str(tmp_path / "a.parquet"), "data", "a.parquet")
    assert read("s3://data/a.parquet")[0].texts == ["a", "b"]


# Shards as people have them --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.Ndjson.GZ", "a.ndjson.zst"])
def test_endings_are_told_in_any_case(tmp_path, name):
    path = tmp_path / name
    with closing(open_writer(str(path), str(path), None)) as writer:
        writer.write(LINES)
    assert [batch.take([0, 1, 2]) for batch in read(path)] == [LINES]
    if name.lower().endswith(".gz"):
        assert gzip.decompress(path.read_bytes()) == b"".join(LINES)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".ndjson.zst", ".parquet"])
def test_a_file_of_no_bytes_has_no_rows(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    corpus = open_corpus(locate(str(path)), "text")
    assert corpus.is_empty
    assert list(corpus.batches(10)) == []


def test_what_writers_leave_without_rows_has_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n \r\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    pq.write_table(pa.table({"text": pa.array([], pa.null())}), tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        corpus = open_corpus(locate(str(path)), "text")
        assert corpus.is_empty
        assert list(corpus.batches(10)) == []


STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("type_", STRINGS, ids=str)
def test_strings_of_every_layout_are_read_taken_and_written(tmp_path, type_):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": pa.array(["a", "é", "c", "d"]).cast(type_), "n": [1, 2, 3, 4]})
    pq.write_table(table, path)
    corpus = open_corpus(locate(str(path)), "text")
    (batch,) = corpus.batches(10)
    assert batch.texts == ["a", "é", "c", "d"]
    with closing(open_writer(str(tmp_path / "b.parquet"), "b", corpus.schema)) as writer:
        for indices in ([0], [1, 3], []):
            writer.write(batch.take(indices))
    kept = pq.read_table(tmp_path / "b.parquet")
    assert kept.schema == corpus.schema
    assert kept.to_pylist() == [{"text": t, "n": n} for t, n in (("a", 1), ("é", 2), ("d", 4))]


def test_line_breaks_that_json_does_not_know_are_content_and_marks_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["one\u2028two", "three\x85four\x0b", "five\u2029six"]
    lines = [f'\ufeff{{"text": {json.dumps(text, ensure_ascii=False)}}}' for text in texts]
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    (batch,) = read(path)
    assert batch.texts == texts
    assert batch.numbers == [1, 2, 3]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.sampled_from([b"", b" ", *LINES])),
    ends=st.sampled_from([b"", b"\n", b"\r\n"]),
    part_bytes=st.integers(1, 90),
    rows=st.integers(1, 4),
)  # fmt: skip
def test_parts_read_apart_are_the_file(tmp_path, monkeypatch, lines, ends, part_bytes, rows):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + ends)
    monkeypatch.setattr(corpus, "PART_BYTES", part_bytes)
    file = open_corpus(locate(str(tmp_path / "a.jsonl")), skip_unreadable=True)
    whole, apart, before = [], [], 0
    for batch in file.batches(rows):
        whole += [*zip(batch.numbers, batch.records, strict=True), *batch.unreadable]
    for part in file.parts():
        batches = [batch.numbered_from(before) for batch in file.batches(rows, part)]
        before = batches[-1].last
        for batch in batches:
            apart += [*zip(batch.numbers, batch.records, strict=True), *batch.unreadable]
    assert sorted(apart, key=lambda row: row[0]) == sorted(whole, key=lambda row: row[0])
