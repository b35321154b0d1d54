"""``ray-si dedup`` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.corpora import dedup as corpora_dedup
from tests.builds import rays_processes
from tests.command import ENVIRONMENT, assert_one_line_error, invoke

RIVER = "Name the longest river of the country."
RIVER_AGAIN = "Name the longest river of a country."
SORT = "Sort these numbers from small to large."
SORT_AGAIN = "Sort these numbers from small to big."
POEM = "Écrivez un poème sur la mer."
NO_COSINE = ("--cosine", "off")


def write_lines(path, *texts, field="instruction"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_rows_are_copied_in_order_and_the_others_explained(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        f'{{"n": 1.0,  "instruction": "{RIVER}"}}\n\n'
        f'{{"instruction": "{RIVER_AGAIN}"}}\n{{"instruction":"{POEM}"}}'
    )
    write_lines(tmp_path / "b.jsonl", SORT, RIVER)
    done = invoke("dedup", "a.jsonl", "b.jsonl", "--to", "kept.jsonl", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept.jsonl").read_text() == (
        f'{{"n": 1.0,  "instruction": "{RIVER}"}}\n{{"instruction":"{POEM}"}}\n'
        + json.dumps({"instruction": SORT})
        + "\n"
    )
    assert read_lines(tmp_path / "kept.rejected.jsonl") == [
        {
            "text": RIVER_AGAIN,
            "reason": "rouge",
            "score": pytest.approx(12 / 14),
            "match": RIVER,
            "match_source": None,
            "file": "a.jsonl",
            "row": 3,
            "error": None,
            "match_id": None,
        },
        {
            "text": RIVER,
            "reason": "rouge",
            "score": 1.0,
            "match": RIVER,
            "match_source": None,
            "file": "b.jsonl",
            "row": 2,
            "error": None,
            "match_id": None,
        },
    ]
    for shown in ("rows", "kept", "rejected: rouge", "seconds", "peak memory"):
        assert shown in done.stdout
    assert names(tmp_path) == {"a.jsonl", "b.jsonl", "kept.jsonl", "kept.rejected.jsonl"}


def test_nothing_kept_resembles_what_it_is_held_against(tmp_path):
    write_lines(tmp_path / "in.jsonl", RIVER, SORT, POEM, field="prompt")
    write_lines(tmp_path / "seeds.jsonl", RIVER_AGAIN)  # their own field, "instruction"
    pq.write_table(pa.table({"prompt": [SORT_AGAIN]}), tmp_path / "test.parquet")
    against = ("--against", "seeds.jsonl", "--against", "test.parquet")
    options = ("--text-field", "prompt", *against, *NO_COSINE)
    done = invoke("dedup", "in.jsonl", "--to", "kept.jsonl", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["prompt"] for row in read_lines(tmp_path / "kept.jsonl")] == [POEM]
    rejected = read_lines(tmp_path / "kept.rejected.jsonl")
    assert [(row["match"], row["match_source"]) for row in rejected] == [
        (RIVER_AGAIN, "seeds.jsonl"),
        (SORT_AGAIN, "test.parquet"),
    ]
    assert "rejected: rouge (test.parquet)" in done.stdout


def test_parquet_keeps_schema_and_order(tmp_path):
    table = pa.table(
        {"instruction": [RIVER, RIVER_AGAIN, POEM], "tags": [["a"], [], None], "n": [1, 2, 3]}
    ).replace_schema_metadata({"origin": "here"})
    pq.write_table(table, tmp_path / "in.parquet")
    done = invoke("dedup", "in.parquet", "--to", "kept.parquet", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert kept.schema.equals(pq.read_schema(tmp_path / "in.parquet"), check_metadata=True)
    assert kept.to_pylist() == table.take([0, 2]).to_pylist()
    (rejected,) = pq.read_table(tmp_path / "kept.rejected.parquet").to_pylist()
    assert (rejected["match"], rejected["file"], rejected["row"]) == (RIVER, "in.parquet", 2)


def test_unreadable_rows_are_passed_over_counted_and_named_where_that_is_asked(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b"[]\n" + json.dumps({"instruction": RIVER}).encode() + b"\n{\n\n"
        b'{"instruction": "\xff"}\n{"instruction": null}\n{"\\ud800": 1}\n'
        + json.dumps({"instruction": RIVER_AGAIN}).encode()
    )
    write_lines(tmp_path / "t.jsonl", SORT)
    with (tmp_path / "t.jsonl").open("a") as test_set:
        test_set.write("nothing\n")
    arguments = ("dedup", "a.jsonl", "--to", "k.jsonl", "--against", "t.jsonl", *NO_COSINE)
    refused = invoke(*arguments, cwd=tmp_path)
    assert_one_line_error(refused, "a.jsonl, line 1: not a JSON object; mend or remove the line")
    done = invoke(*arguments, "--skip-unreadable", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["instruction"] for row in read_lines(tmp_path / "k.jsonl")] == [RIVER]
    against, *rejected = read_lines(tmp_path / "k.rejected.jsonl")
    assert (against["file"], against["row"], against["reason"]) == ("t.jsonl", 2, "unreadable")
    assert against["error"].startswith("not valid JSON at 1")
    assert [(row["row"], row["reason"]) for row in rejected] == [
        *((number, "unreadable") for number in (1, 3, 5, 6, 7)),
        (8, "rouge"),
    ]
    errors = ["not a JSON object", "not valid JSON at 1", "not UTF-8", "is null", "are: �"]
    for row, error in zip(rejected, errors, strict=False):
        assert error in row["error"]
        assert row["text"] is row["match"] is None
    counts = [line.split() for line in done.stdout.splitlines() if "unreadable" in line]
    assert [count for line in counts for count in line if count.isdigit()] == ["5", "1"]


def test_unreadable_rows_of_parquet_are_passed_over_too(tmp_path):
    binary = pa.array([RIVER.encode(), b"\xff", None, SORT.encode()], pa.binary())
    column = pa.StringArray.from_buffers(4, *binary.buffers()[1:], binary.buffers()[0])
    pq.write_table(pa.table({"instruction": column, "n": range(4)}), tmp_path / "a.parquet")
    report = corpora_dedup.dedup_files(
        [str(tmp_path / "a.parquet")],
        str(tmp_path / "k.parquet"),
        cosine=None,
        skip_unreadable=True,
    )
    assert (report.rows, report.kept, report.rejected) == (4, 2, {"unreadable": 2})
    assert pq.read_table(tmp_path / "k.parquet")["n"].to_pylist() == [0, 3]
    rejected = pq.read_table(tmp_path / "k.rejected.parquet").to_pylist()
    assert [(row["row"], row["error"]) for row in rejected] == [
        (2, "column 'instruction' is not UTF-8"),
        (3, "column 'instruction' is null, not a string"),
    ]


def test_the_cosine_gate_takes_what_rouge_lets_through(tmp_path):
    close = ["What is the capital of France?", "Tell me the name of France's capital city."]
    write_lines(tmp_path / "in.jsonl", *close, POEM)
    done = invoke("dedup", "in.jsonl", "--to", "kept.jsonl", "--cosine", "0.7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Loading weights" not in done.stderr
    (rejected,) = read_lines(tmp_path / "kept.rejected.jsonl")
    assert (rejected["text"], rejected["reason"]) == (close[1], "cosine")
    assert 0.7 < rejected["score"] < 1


def test_a_text_of_a_megabyte_is_a_text(tmp_path):
    long = " ".join(f"word{i}" for i in range(110_000))
    write_lines(tmp_path / "in.jsonl", long, POEM, long)
    done = invoke("dedup", "in.jsonl", "--to", "kept.jsonl", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["instruction"] for row in read_lines(tmp_path / "kept.jsonl")] == [long, POEM]


def test_a_shard_that_dies_does_not_change_the_result(ray_session, tmp_path, monkeypatch):
    texts = [
        f"Describe the {place} of number {i * i} in words." for i, place in enumerate("abc" * 40)
    ]
    write_lines(tmp_path / "in.jsonl", *texts)
    write_lines(tmp_path / "against.jsonl", *(text + " Please." for text in texts[::7]))
    monkeypatch.setattr(corpora_dedup, "_BATCH_ROWS", 10)
    killed = []

    def kill(progress):
        """A shard after the first batch of rows, and one in the middle."""
        if progress.rows > 60 * len(killed) and len(killed) < 2:
            shards = list(rays_processes("ray::Shard"))
            newest = max(shards, key=psutil.Process.create_time)
            newest.kill()
            killed.append(newest.pid)

    options = {"cosine": None, "against": [str(tmp_path / "against.jsonl")]}
    for shards, listen in ((1, lambda progress: None), (2, kill)):
        out = str(tmp_path / f"{shards}.jsonl")
        corpora_dedup.dedup_files(
            [str(tmp_path / "in.jsonl")], out, shards=shards, listen=listen, **options
        )
    assert len(set(killed)) == 2
    for name in ("{}.jsonl", "{}.rejected.jsonl"):
        one, two = ((tmp_path / name.format(shards)).read_bytes() for shards in (1, 2))
        assert one == two


CHINESE = ["用Python写一个排序函数。", "请解释Python的装饰器是什么。"]
HINDI = ["समुद्र के बारे में एक छोटी कविता लिखिए।", "एक अच्छे नाश्ते के लिए तीन सुझाव दीजिए।"]


def test_other_scripts_are_read_by_default_and_stored_as_written(tmp_path):
    composed, decomposed = (unicodedata.normalize(f, POEM) for f in ("NFC", "NFD"))
    wide = CHINESE[0].replace("Python", "Ｐｙｔｈｏｎ")
    texts = [decomposed, *CHINESE, *HINDI, wide, HINDI[0], composed]
    write_lines(tmp_path / "in.jsonl", *texts)
    done = invoke("dedup", "in.jsonl", "--to", "kept.jsonl", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = [row["instruction"] for row in read_lines(tmp_path / "kept.jsonl")]
    assert kept == [decomposed, *CHINESE, *HINDI]
    rejected = read_lines(tmp_path / "kept.rejected.jsonl")
    assert [(row["text"], row["match"], row["score"]) for row in rejected] == [
        (wide, CHINESE[0], 1.0),
        (HINDI[0], HINDI[0], 1.0),
        (composed, decomposed, 1.0),
    ]
    assert "note:" not in done.stdout + done.stderr


def test_the_reference_tokenizer_says_of_how_many_texts_it_reads_little(tmp_path):
    write_lines(tmp_path / "in.jsonl", RIVER, *CHINESE, *HINDI)
    options = ("--tokenizer", "reference", *NO_COSINE)
    done = invoke("dedup", "in.jsonl", "--to", "kept.jsonl", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (note,) = (line for line in done.stdout.splitlines() if line.startswith("note: "))
    assert "read less than half of 4 of 5 texts; --tokenizer auto reads them" in note


def test_empty_shards_count_as_no_rows_and_are_said(tmp_path):
    write_lines(tmp_path / "a.jsonl", RIVER, RIVER)
    write_lines(tmp_path / "b.NDJSON", SORT)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".a.jsonl").write_bytes(b"\x00")
    files = ("empty.jsonl", ".a.jsonl", "a.jsonl", "dataset_infos.json", "b.NDJSON", "blank.jsonl")
    done = invoke("dedup", *files, "--to", "kept.jsonl", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["instruction"] for row in read_lines(tmp_path / "kept.jsonl")] == [RIVER, SORT]
    assert "note: no row in empty.jsonl, blank.jsonl\n" in done.stdout
    assert "note: not read .a.jsonl, dataset_infos.json\n" in done.stdout


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_output_without_rows_is_an_input(tmp_path, suffix):
    if suffix == "jsonl":
        write_lines(tmp_path / "in.jsonl", SORT)
    else:
        pq.write_table(pa.table({"instruction": [SORT]}), tmp_path / "in.parquet")
    for source, to in (("in", "one"), ("one", "two"), ("two", "three")):
        options = ("--against", f"in.{suffix}", *NO_COSINE)
        names_ = (f"{source}.{suffix}", "--to", f"{to}.{suffix}")
        done = invoke("dedup", *names_, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "note: no row in two." in done.stdout
    if suffix == "parquet":
        assert pq.read_schema(tmp_path / "three.parquet").names == ["instruction"]


def test_shards_that_lay_out_their_strings_differently_are_one_corpus(tmp_path):
    large = {"n": [1], "instruction": pa.array([RIVER], pa.large_string())}
    pq.write_table(pa.table({"instruction": pa.array([], pa.null())}), tmp_path / "0.parquet")
    pq.write_table(pa.table(large), tmp_path / "1.parquet")
    view = {"instruction": pa.array([SORT, RIVER_AGAIN], pa.string_view()), "n": [2, 3]}
    pq.write_table(pa.table(view), tmp_path / "2.parquet")
    files = ("0.parquet", "1.parquet", "2.parquet")
    done = invoke("dedup", *files, "--to", "kept.parquet", *NO_COSINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert kept.schema == pa.table(large).schema
    assert kept.to_pylist() == [{"n": 1, "instruction": RIVER}, {"n": 2, "instruction": SORT}]


def test_shards_do_not_change_the_result(ray_session, tmp_path):
    texts = [f"Write {a} lines about {b}." for a in ("two", "ten") for b in ("rain", "sea", "sun")]
    write_lines(tmp_path / "in.jsonl", *texts, SORT, *texts)
    write_lines(tmp_path / "against.jsonl", SORT_AGAIN)
    for shards in (1, 2):
        options = ("--shards", shards, "--against", "against.jsonl", *NO_COSINE)
        done = invoke("dedup", "in.jsonl", "--to", f"{shards}.jsonl", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for name in ("{}.jsonl", "{}.rejected.jsonl"):
        one, two = ((tmp_path / name.format(shards)).read_bytes() for shards in (1, 2))
        assert one == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl", "--to", "x.jsonl"], "there is no file absent.jsonl"),
        (["folder.jsonl", "--to", "x.jsonl"], "folder.jsonl is a folder"),
        (["dataset_infos.json", "--to", "x.jsonl"], "there is no input that could hold rows"),
        (["empty.parquet", "--to", "x.parquet"], "empty.parquet says no columns"),
        (["in.json", "--to", "x.jsonl"], "in.json: unknown extension"),
        (["in.jsonl", "--to", "x.csv"], "x.csv: unknown extension"),
        (["in.jsonl", "--to", "x.parquet"], "use one kind for all"),
        (["in.jsonl", "in.parquet", "--to", "x.jsonl"], "use one kind for all"),
        (["in.parquet", "other.parquet", "--to", "x.parquet"], "differ in their columns"),
        (["number.parquet", "--to", "x.parquet"], "is of type int64, not string"),
        (["corrupt.parquet", "--to", "x.parquet"], "cannot read corrupt.parquet"),
        (["bad.jsonl", "--to", "x.jsonl"], "bad.jsonl, line 2: not valid JSON"),
        (["in.jsonl", "--to", "x.jsonl", "--text-field", "x"], "no field 'x'; there are: instr"),
        (["in.jsonl", "--to", "in.jsonl"], "would replace an input"),
        (["in.jsonl", "--to", "./folder.jsonl/../in.jsonl"], "would replace an input"),
        (["in.jsonl", "--to", "old.jsonl"], "old.jsonl exists; choose another name or add --over"),
        (["in.jsonl", "--to", "absent/x.jsonl"], "make it first"),
        (["in.jsonl", "--to", "old.jsonl/x.jsonl"], "there is no folder"),
        (["in.jsonl", "--to", "x.jsonl", "--against", "no.jsonl"], "there is no file no.jsonl"),
        (["in.jsonl", "--to", "x.jsonl", "--rouge", "0"], "--rouge must lie in (0, 1], not 0"),
        (["in.jsonl", "--to", "x.jsonl", "--rouge", "nan"], "--rouge must lie in (0, 1]"),
        (["in.jsonl", "--to", "x.jsonl", "--cosine", "1.5"], "--cosine must lie in (0, 1]"),
        (["in.jsonl", "--to", "x.jsonl", "--cosine", "of"], "--cosine is a number in (0, 1], or"),
        (["in.jsonl", "--to", "x.jsonl", "--tokenizer", "x"], "--tokenizer is one of auto"),
        (["in.jsonl", "--to", "x.jsonl", "--shards", "0"], "--shards must be at least 1"),
        (["in.jsonl", "--to", "x.jsonl", "--embedder", "./no"], "there is no model folder ./no"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, arguments, message):
    write_lines(tmp_path / "in.jsonl", RIVER, SORT)
    write_lines(tmp_path / "in.json", RIVER)
    write_lines(tmp_path / "old.jsonl", POEM)
    (tmp_path / "bad.jsonl").write_text((tmp_path / "in.jsonl").read_text()[:-20])
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "corrupt.parquet").write_bytes(b"PAR1 and nothing else")
    pq.write_table(pa.table({"instruction": [RIVER]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"instruction": [RIVER], "n": [1]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"instruction": [1]}), tmp_path / "number.parquet")
    before = names(tmp_path)
    if "--cosine" not in arguments and "--embedder" not in arguments:
        arguments = [*arguments, *NO_COSINE]
    assert_one_line_error(invoke("dedup", *arguments, cwd=tmp_path), message)
    assert names(tmp_path) == before
    assert read_lines(tmp_path / "old.jsonl") == [{"instruction": POEM}]


def test_an_existing_output_is_replaced_when_asked(tmp_path):
    write_lines(tmp_path / "in.jsonl", RIVER)
    write_lines(tmp_path / "kept.jsonl", POEM)
    command = ("dedup", "in.jsonl", "--to", "kept.jsonl", "--overwrite", *NO_COSINE)
    assert invoke(*command, cwd=tmp_path).returncode == 0
    assert read_lines(tmp_path / "kept.jsonl") == [{"instruction": RIVER}]
    assert (tmp_path / "kept.rejected.jsonl").read_bytes() == b""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file that takes seconds, to be left as it is."""
    path = tmp_path_factory.mktemp("large") / "in.jsonl"
    with path.open("w") as stream:
        for i in range(400_000):
            text = " ".join(str(i * factor) for factor in range(7, 27))
            stream.write(f'{{"instruction": "{text}"}}\n')
    return path


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing(tmp_path, large, number, status):
    os.link(large, tmp_path / "in.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_si", "dedup", "in.jsonl", "--to", "kept.jsonl", *NO_COSINE],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".tmp-*-kept.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors.endswith("stopped; nothing was written\n")
    assert "Traceback" not in errors
    assert names(tmp_path) == {"in.jsonl"}


def test_from_s3_to_s3(s3, s3_server, tmp_path):
    lines = b"".join(b'{"instruction": "%s"}\n' % t.encode() for t in (RIVER, RIVER_AGAIN, SORT))
    s3.put_object(Bucket="data", Key="in/a.jsonl", Body=lines)
    command = ("dedup", "s3://data/in/a.jsonl", "--to", "s3://data/out/b.jsonl", *NO_COSINE)
    environment = ENVIRONMENT | s3_server
    done = invoke(*command, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = s3.get_object(Bucket="data", Key="out/b.jsonl")["Body"].read()
    assert kept == b"".join(lines.splitlines(keepends=True)[::2])
    rejected = s3.get_object(Bucket="data", Key="out/b.rejected.jsonl")["Body"].read()
    assert json.loads(rejected)["file"] == "s3://data/in/a.jsonl"
    assert_one_line_error(invoke(*command, env=environment), "s3://data/out/b.jsonl exists")
    assert names(tmp_path) == set()


def test_on_s3_mistakes_are_one_line_and_write_nothing(s3, s3_server, tmp_path):
    write_lines(tmp_path / "in.jsonl", RIVER)
    s3.put_object(Bucket="data", Key="bad.jsonl", Body=b'{"instruction": "a"}\n{"instruction": 1}')
    environment = ENVIRONMENT | s3_server

    def refused(source, target, message):
        done = invoke("dedup", source, "--to", target, *NO_COSINE, env=environment, cwd=tmp_path)
        assert_one_line_error(done, message)

    refused("s3://data/bad.jsonl", "s3://data/out.jsonl", "bad.jsonl, line 2: field 'instruction'")
    refused("s3://data/absent.jsonl", "s3://data/out.jsonl", "there is no file s3://data/absent")
    refused("s3://absent/a.jsonl", "out.jsonl", "there is no bucket absent")
    refused("in.jsonl", "s3://absent/out.jsonl", "there is no bucket absent")
    refused("s3://data/bad.jsonl", "s3://data/bad.jsonl", "would replace an input")
    del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    environment["HOME"] = str(tmp_path)
    refused("s3://data/bad.jsonl", "out.jsonl", "access denied")
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="data")["Contents"]] == ["bad.jsonl"]
    assert names(tmp_path) == {"in.jsonl"}
