"""``ray-si dedup --index``: new data against old, appended, killed and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ray_si.corpora import dedup, index as corpus_index
from ray_si.corpora.dedup import dedup_files
from ray_si.dedup import Deduplicator
from ray_si.errors import CorpusError, LeaseLostError, StorageError, StorageLostError
from ray_si.storage.local import LocalObjects
from tests.command import ENVIRONMENT, assert_one_line_error, invoke

RIVER = "Name the longest river of the country."
RIVER_AGAIN = "Name the longest river of a country."
SORT = "Sort these numbers from small to large."
SORT_AGAIN = "Sort these numbers from small to big."
POEM = "Write a poem about the sea in winter."


def write(path, *texts):
    path.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(count):
    """Texts of which many are near-duplicates of earlier ones."""
    return [f"{i % 37} of {i * i % 41} and {i // 7 % 23} or {i * 5 % 29}" for i in range(count)]


def test_new_data_is_held_against_old_and_matches_have_ids(tmp_path):
    options = {"cosine": None, "index": str(tmp_path / "seen")}
    old = write(tmp_path / "a.jsonl", RIVER, SORT)
    first = dedup_files([old], str(tmp_path / "ka.jsonl"), **options)
    assert first.indexed == 2
    test_set = write(tmp_path / "t.jsonl", "Name a few lakes of Finland.")
    new = write(
        tmp_path / "b.jsonl", SORT_AGAIN, POEM, "Name few lakes of Finland.", f"{POEM} Please."
    )
    second = dedup_files([new], str(tmp_path / "kb.jsonl"), against=[test_set], **options)
    assert (second.kept, second.indexed) == (1, 3)
    rejected = read(tmp_path / "kb.rejected.jsonl")
    assert [(row["match"], row["match_id"], row["match_source"]) for row in rejected] == [
        (SORT, 1, None),
        ("Name a few lakes of Finland.", None, test_set),
        (POEM, 2, None),
    ]
    third = dedup_files([write(tmp_path / "c.jsonl", POEM)], str(tmp_path / "kc.jsonl"), **options)
    assert (third.kept, third.indexed) == (0, 3)
    assert read(tmp_path / "kc.rejected.jsonl")[0]["match_id"] == 2


def test_in_parts_the_kept_are_those_of_all_at_once(tmp_path):
    texts = made(300)
    gate = Deduplicator(0.7, None)
    expected = [texts[i] for i in gate.filter(texts).accepted]
    kept = []
    for start in range(0, 300, 100):
        out = tmp_path / f"k{start}.jsonl"
        part = write(tmp_path / f"{start}.jsonl", *texts[start : start + 100])
        dedup_files([part], str(out), cosine=None, index=str(tmp_path / "seen"))
        kept += [row["instruction"] for row in read(out)]
    assert kept == expected
    assert 50 < len(kept) < 250


def test_embeddings_are_kept_and_compared(tmp_path):
    translate, again = "Translate this sentence into French.", "Put the sentence into French."
    write(tmp_path / "a.jsonl", translate)
    write(tmp_path / "b.jsonl", again, POEM)
    for name in ("a", "b"):
        done = invoke(
            *("dedup", f"{name}.jsonl", "--to", f"k{name}.jsonl"),
            *("--index", "seen", "--cosine", "0.8"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    assert "index:    2 texts" in done.stdout
    (row,) = read(tmp_path / "kb.rejected.jsonl")
    assert (row["reason"], row["match"], row["match_id"]) == ("cosine", translate, 0)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "seen/parts").iterdir())]
    assert [table["text"].to_pylist() for table in tables] == [[translate], [POEM]]
    assert {len(vector) for table in tables for vector in table["embedding"].to_pylist()} == {384}


KILLED = """
import os, signal, sys
from ray_si.corpora import dedup, index
dedup._BATCH_ROWS, index.COMMIT_BATCHES = 9, 2
def listen(progress):
    if progress.rows >= int(sys.argv[1]) or progress.note == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
dedup.dedup_files(["s3://data/in.jsonl"], "s3://data/kept.jsonl", cosine=None,
                  against=["s3://data/test.jsonl"], index="s3://data/seen", listen=listen)
"""


def test_killed_at_any_moment_it_goes_on_where_it_was(s3, s3_server, tmp_path, monkeypatch):
    texts = made(400)
    for name, part in (("in", texts), ("test", made(5)), ("old", texts[50:80])):
        path = write(tmp_path / f"{name}.jsonl", *part)
        s3.upload_file(path, "data", f"{name}.jsonl")
    options = {"cosine": None, "against": ["s3://data/test.jsonl"]}
    for place in ("seen", "whole"):
        out = f"s3://data/old-{place}.jsonl"
        dedup_files(["s3://data/old.jsonl"], out, cosine=None, index=f"s3://data/{place}")
    whole = dedup_files(
        ["s3://data/in.jsonl"], "s3://data/whole.jsonl", index="s3://data/whole", **options
    )

    for rows, note in ((100, ""), (10_000, "writing")):
        arguments = [sys.executable, "-c", KILLED, str(rows), note]
        done = subprocess.run(arguments, env=ENVIRONMENT | s3_server, check=False, timeout=300)
        assert done.returncode == -9
    decided = []
    decide = corpus_index.CorpusIndex._decide

    def counted(self, texts, embeddings):
        decided.extend(texts)
        return decide(self, texts, embeddings)

    monkeypatch.setattr(corpus_index.CorpusIndex, "_decide", counted)
    monkeypatch.setattr(dedup, "_BATCH_ROWS", 23)
    report = dedup_files(
        ["s3://data/in.jsonl"], "s3://data/kept.jsonl", index="s3://data/seen", **options
    )
    assert len(decided) < 30  # what came after the last commit
    assert (report.rows, report.kept, report.indexed) == (whole.rows, whole.kept, whole.indexed)
    assert report.rejected == whole.rejected
    for name in ("{}.jsonl", "{}.rejected.jsonl"):
        bodies = [
            s3.get_object(Bucket="data", Key=name.format(of))["Body"].read()
            for of in ("kept", "whole")
        ]
        assert bodies[0] == bodies[1]
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="data")["Contents"]]
    assert not [key for key in keys if "/job/" in key or "tmp" in key]
    again = dedup_files(["s3://data/in.jsonl"], "s3://data/again.jsonl", index="s3://data/seen",
        **options)  # fmt: skip
    assert again.kept == 0


@pytest.mark.parametrize("moment", ["finish", "_sweep"])
def test_a_job_cut_short_at_its_end_is_done_once_and_its_output_never_emptied(
    tmp_path, monkeypatch, moment
):
    write(tmp_path / "in.jsonl", RIVER, RIVER_AGAIN, SORT)
    write(tmp_path / "other.jsonl", POEM)
    options = ("--index", "seen", "--cosine", "off")

    def run(*arguments):
        return invoke("dedup", *arguments, *options, cwd=tmp_path)

    def refused(*arguments):
        raise StorageError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(corpus_index.CorpusIndex, moment, refused)
        assert_one_line_error(run("in.jsonl", "--to", "k.jsonl"), "refused")
    assert run("in.jsonl", "--to", "k.jsonl").returncode == 0
    assert run("other.jsonl", "--to", "ko.jsonl").returncode == 0
    again = run("in.jsonl", "--to", "k.jsonl", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert "note: this job was done before" in again.stdout
    (count,) = (line.split() for line in again.stdout.splitlines() if "│ kept" in line)
    assert "2" in count
    assert [row["instruction"] for row in read(tmp_path / "k.jsonl")] == [RIVER, SORT]
    assert [row["text"] for row in read(tmp_path / "k.rejected.jsonl")] == [RIVER_AGAIN]
    assert "index:    3 texts" in again.stdout


def test_a_file_of_other_texts_and_as_many_rows_is_another_job(tmp_path):
    options = {"cosine": None, "index": str(tmp_path / "seen"), "overwrite": True}
    files = str(tmp_path / "in.parquet"), str(tmp_path / "k.parquet")
    for texts, kept in (([RIVER, SORT], 2), ([POEM, SORT_AGAIN], 1), ([POEM, SORT_AGAIN], 1)):
        pq.write_table(pa.table({"instruction": texts}), files[0])
        report = dedup_files([files[0]], files[1], **options)
        assert report.kept == kept
    assert report.was_done
    assert pq.read_table(files[1])["instruction"].to_pylist() == [POEM]


def test_a_new_index_outlives_a_failure_of_its_first_commit(tmp_path, monkeypatch):
    old = write(tmp_path / "in.jsonl", RIVER, SORT)
    arguments = [old], str(tmp_path / "k.jsonl")
    options = {"cosine": None, "index": str(tmp_path / "seen")}
    write_table = corpus_index.write_table

    def full(objects, key, table):
        if key.startswith("job/"):
            raise StorageLostError("no space; free some space, then the same command goes on")
        return write_table(objects, key, table)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_index, "write_table", full)
        with pytest.raises(StorageLostError):
            dedup_files(*arguments, **options)
    report = dedup_files(*arguments, **options)
    assert (report.kept, report.indexed) == (2, 2)
    assert len(list((tmp_path / "seen/parts").iterdir())) == 1


def stop_at(rows):
    """A listener that ends a job after so many rows."""

    def listen(progress):
        if progress.rows >= rows:
            raise InterruptedError

    return listen


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A job of 60 rows of which 50 are decided, in five commits: its arguments and options."""
    monkeypatch.setattr(dedup, "_BATCH_ROWS", 10)
    monkeypatch.setattr(corpus_index, "COMMIT_BATCHES", 1)
    pq.write_table(pa.table({"instruction": made(60)}), tmp_path / "in.parquet")
    against = [write(tmp_path / "test.jsonl", POEM)]
    arguments = [str(tmp_path / "in.parquet")], str(tmp_path / "k.parquet")
    options = {"cosine": None, "index": str(tmp_path / "seen"), "against": against}
    with pytest.raises(InterruptedError):
        dedup_files(*arguments, **options, listen=stop_at(50))
    return arguments, options


def test_a_resume_reads_earlier_decisions_as_it_comes_to_them(unfinished, monkeypatch):
    arguments, options = unfinished
    rows, reads = 0, []
    table = corpus_index.CorpusIndex._table

    def noted(self, part):
        reads.append((part["key"], rows))
        return table(self, part)

    def listen(progress):
        nonlocal rows
        rows = progress.rows

    monkeypatch.setattr(corpus_index.CorpusIndex, "_table", noted)
    report = dedup_files(*arguments, **options, listen=listen)
    assert (report.rows, report.was_done) == (60, False)
    assert [at for key, at in reads if key.startswith("job/")] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("changed", ["in.parquet", "test.jsonl"])
def test_a_resume_whose_texts_have_changed_is_refused(unfinished, tmp_path, changed):
    arguments, options = unfinished
    if changed == "test.jsonl":
        write(tmp_path / changed, POEM[::-1])
    else:
        pq.write_table(pa.table({"instruction": [*made(15), *made(75)[30:]]}), tmp_path / changed)
    with pytest.raises(CorpusError, match="this job unfinished, begun when its files had other"):
        dedup_files(*arguments, **options)
    report = dedup_files(*arguments, **options, discard_unfinished=True)
    assert (report.rows, report.indexed) == (60, report.kept)


def test_a_resume_that_lacks_texts_is_refused(unfinished, tmp_path, monkeypatch):
    arguments, options = unfinished
    monkeypatch.setattr(dedup, "_job", lambda *_, **__: json.loads(stored())["job"]["what"])

    def stored():
        return (tmp_path / "seen/index.json").read_text()

    pq.write_table(pa.table({"instruction": made(40)}), tmp_path / "in.parquet")
    with pytest.raises(CorpusError, match="has this job unfinished"):
        dedup_files(*arguments, **options)
    assert len(json.loads(stored())["job"]["decisions"]) == 5


def test_a_job_that_an_earlier_version_began_goes_on(unfinished, monkeypatch):
    arguments, options = unfinished
    table = corpus_index.CorpusIndex._table
    monkeypatch.setattr(
        corpus_index.CorpusIndex,
        "_table",
        lambda self, part: table(self, part).replace_schema_metadata(None),
    )
    report = dedup_files(*arguments, **options)
    assert (report.rows, report.indexed) == (60, report.kept)


def test_parts_of_an_index_are_read_together(tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=20)
    table = corpus_index.CorpusIndex._table

    def met(self, part):
        together.wait()
        return table(self, part)

    for name, text in (("a", RIVER), ("b", SORT), ("c", SORT_AGAIN)):
        if name == "c":
            monkeypatch.setattr(corpus_index.CorpusIndex, "_table", met)
        path = write(tmp_path / f"{name}.jsonl", text)
        options = {"cosine": None, "index": str(tmp_path / "seen")}
        report = dedup_files([path], str(tmp_path / f"k{name}.jsonl"), **options)
    assert read(tmp_path / "kc.rejected.jsonl")[0]["match_id"] == 1
    assert report.indexed == 2


@pytest.mark.parametrize("lease", [False, True])
def test_a_driver_that_another_succeeds_deletes_nothing_of_its(tmp_path, monkeypatch, lease):
    objects = LocalObjects(tmp_path / "seen")
    keys = {"stale": "parts/part-00007-00001.parquet", "next": "parts/part-00001-00002.parquet"}
    sweep = corpus_index.CorpusIndex._sweep

    def late(self):
        for key in keys.values():
            objects.put(key, b"")
        if lease:
            objects.put("lease/00002.json", b"{}")
        sweep(self)

    monkeypatch.setattr(corpus_index.CorpusIndex, "_sweep", late)
    with pytest.raises(LeaseLostError) if lease else nullcontext():
        dedup_files(
            [write(tmp_path / "in.jsonl", RIVER)], str(tmp_path / "k.jsonl"), cosine=None,
            index=str(tmp_path / "seen"),
        )  # fmt: skip
    left = set(objects.list("parts/"))
    assert keys["next"] in left
    assert (keys["stale"] in left) == lease


def test_what_does_not_fit_an_index_is_one_line(tmp_path):
    write(tmp_path / "in.jsonl", RIVER, SORT)
    write(tmp_path / "bad.jsonl", *made(60))
    with (tmp_path / "bad.jsonl").open("a") as stream:
        stream.write("nothing\n")

    def run(name, *options, to="k.jsonl"):
        arguments = ("--to", to, "--index", "seen", "--cosine", "off", *options)
        return invoke("dedup", name, *arguments, cwd=tmp_path)

    assert run("in.jsonl").returncode == 0
    assert_one_line_error(
        run("in.jsonl", "--rouge", "0.8", to="x.jsonl"), "was made with --rouge 0.7, not 0.8"
    )
    assert_one_line_error(
        run("in.jsonl", "--cosine", "0.9", to="x.jsonl"), "was made with --cosine off, not 0.9"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_BATCH_ROWS", 10)
        patch.setattr(corpus_index, "COMMIT_BATCHES", 1)
        assert_one_line_error(run("bad.jsonl", to="x.jsonl"), "bad.jsonl, line 61: not valid JSON")
    assert_one_line_error(
        run("in.jsonl", to="y.jsonl"), "has an unfinished job (bad.jsonl to x.jsonl): run that"
    )
    done = run("in.jsonl", "--discard-unfinished", to="y.jsonl")
    assert done.returncode == 0, done.stderr
    assert "index:    2 texts" in done.stdout
    assert len(list((tmp_path / "seen/parts").iterdir())) == 1
    manifest = tmp_path / "seen/index.json"
    sound = manifest.read_text()
    for damaged in (sound[:-9], sound.replace("0.7", "0.6"), "[]", '{"kind": 1}'):
        manifest.write_text(damaged)
        assert_one_line_error(run("in.jsonl", to="z.jsonl"), "seen/index.json is damaged")
    manifest.write_text(sound)
    next((tmp_path / "seen/parts").iterdir()).write_bytes(b"PAR1")
    assert_one_line_error(run("in.jsonl", to="z.jsonl"), "it has other content than index.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("precious")
    arguments = ("--to", "z.jsonl", "--index", "other", "--cosine", "off")
    done = invoke("dedup", "in.jsonl", *arguments, cwd=tmp_path)
    assert_one_line_error(done, "other is not empty and not an index; choose another --index")
    assert not list(tmp_path.glob("[xz]*"))


def test_an_embedder_of_another_dimension_is_one_line(tmp_path):
    words = {"[UNK]": 0, "rivers": 1, "lakes": 2}
    for name, dimension in (("a", 2), ("b", 3)):
        tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
        model = StaticEmbedding(tokenizer, embedding_weights=np.eye(3, dimension, dtype=np.float32))
        SentenceTransformer(modules=[model], device="cpu").save(str(tmp_path / "static"))
        write(tmp_path / f"{name}.jsonl", "rivers" if name == "a" else "lakes")
        done = invoke(
            *("dedup", f"{name}.jsonl", "--to", f"k{name}.jsonl"),
            *("--index", "seen", "--embedder", "./static"),
            cwd=tmp_path,
        )
    assert_one_line_error(
        done,
        "has embeddings of 2 numbers, and the embedder gives 3: use the model that",
    )
