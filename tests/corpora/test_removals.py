"""``ray-si verify-removals``: what other tools removed, held against what they kept."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from ray_si.corpora.removals import Gate, verify_removals
from ray_si.dedup.rouge import rouge_l
from tests.command import assert_one_line_error, invoke

RIVER = "Name the longest river of the country."
RIVER_AGAIN = "Name the longest river of a country."
RIVERS = "Name the longest river and lake of a country."
SORT = "Sort these numbers from small to large."
ROUGE = Gate(cosine=None)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def counts(report):
    found = (report.by_rouge, report.by_cosine, report.chained, report.unfounded)
    assert sum(found) == report.removals
    return found


def test_pairs_of_texts_are_near_duplicates_or_not(tmp_path):
    path = write(
        tmp_path / "pairs.jsonl",
        {"removed": RIVER_AGAIN, "kept": RIVER},
        {"removed": SORT, "kept": RIVER},
    )
    report = verify_removals(path, ROUGE)
    assert (report.form, counts(report)) == ("pairs", (1, 0, 0, 1))
    (sample,) = report.samples
    assert (sample.text, sample.kept, sample.cosine) == (SORT, RIVER, None)
    assert sample.rouge == rouge_l(SORT, RIVER)


def test_the_cosine_confirms_what_rouge_does_not(tmp_path):
    path = write(
        tmp_path / "pairs.jsonl",
        {"removed": "Translate this sentence into French.", "kept": "Put this into French."},
        {"removed": SORT, "kept": RIVER},
    )
    done = invoke("verify-removals", path, "--cosine", "0.6", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["by_rouge"], report["by_cosine"], report["unfounded"]) == (0, 1, 1)
    assert report["samples"][0]["cosine"] < 0.6


@pytest.mark.parametrize("kept", [{}, {"kept": 1}])
def test_a_member_of_a_cluster_may_be_near_another_one_only(tmp_path, kept):
    corpus = write(
        tmp_path / "corpus.jsonl", *({"instruction": text} for text in (RIVERS, RIVER, RIVER_AGAIN))
    )
    members = [2, 0, 1] if kept else [1, 2, 0]
    path = write(tmp_path / "clusters.jsonl", {"cluster": members, **kept}, {"cluster": []})
    near = rouge_l(RIVER, RIVER_AGAIN), rouge_l(RIVER_AGAIN, RIVERS)
    assert rouge_l(RIVERS, RIVER) < 0.8 < min(near)
    report = verify_removals(path, Gate(0.8, None), corpus=[corpus])
    assert report.form == "clusters"
    assert counts(report) == (1, 0, 1, 0)


def test_members_are_named_by_ids_of_the_corpus(tmp_path):
    rows = [{"id": f"x{i}", "instruction": text} for i, text in enumerate((RIVER, SORT))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus.parquet")
    pairs = [{"removed": "x1", "kept": "x0"}]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    corpus = [str(tmp_path / "corpus.parquet")]
    report = verify_removals(str(tmp_path / "pairs.parquet"), ROUGE, corpus=corpus, id_field="id")
    assert [(item.text, item.kept) for item in report.samples] == [(SORT, RIVER)]


texts = st.lists(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=12,
)


@given(texts, st.data())
def test_what_a_list_of_kept_rows_lacks_resembles_one_of_them_or_is_unfounded(
    tmp_path_factory, corpus, data
):
    folder = tmp_path_factory.mktemp("kept")
    kept = data.draw(st.sets(st.sampled_from(range(len(corpus))), min_size=1))
    rows = [{"instruction": text} for text in corpus]
    path = write(folder / "kept.jsonl", *(rows[i] for i in sorted(kept)))
    heard = []
    report = verify_removals(
        path, ROUGE, corpus=[write(folder / "corpus.jsonl", *rows)], listen=heard.append
    )
    left = [corpus[i] for i in kept]
    removed = list(corpus)
    for text in left:
        removed.remove(text)
    unfounded = [text for text in removed if max(rouge_l(text, k) for k in left) <= 0.7]
    assert (report.removals, report.unknown) == (len(removed), 0)
    assert sorted(item.text for item in heard) == sorted(unfounded)
    assert counts(report) == (len(removed) - len(unfounded), 0, 0, len(unfounded))
    for item in report.samples:
        assert item.rouge == max(rouge_l(item.text, k) for k in left)


def test_all_that_is_unfounded_goes_to_a_file_and_some_of_it_is_shown(tmp_path):
    corpus = write(
        tmp_path / "corpus.jsonl",
        *({"instruction": text} for text in (RIVER, RIVER_AGAIN, SORT, RIVER)),
    )
    kept = write(tmp_path / "kept.jsonl", {"instruction": RIVER}, {"instruction": "Else."})
    arguments = ("verify-removals", kept, "--corpus", corpus, "--cosine", "off", "--to", "o.jsonl")
    done = invoke(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(row["text"], row["kept"]) for row in lines] == [(SORT, RIVER)]
    for shown in ("removals", "3", "1 (33.3%)", "kept, but not in the corpus", f"- {SORT}"):
        assert shown in done.stdout
    assert_one_line_error(invoke(*arguments, cwd=tmp_path), "o.jsonl exists")


def test_a_text_of_parquet_that_is_no_utf_8_is_named_by_its_row(tmp_path):
    texts = pa.array([RIVER.encode(), b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"removed": texts, "kept": [RIVER, SORT]}), tmp_path / "r.parquet")
    done = invoke("verify-removals", "r.parquet", "--cosine", "off", cwd=tmp_path)
    assert_one_line_error(done, "r.parquet, row 2: a text is not UTF-8; mend or remove the row")


OF_C = ("--corpus", "c.jsonl")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"a": 1}, (), "rows have removed and kept (pairs), cluster (an array), or instruction"),
        ({"removed": 1, "kept": 0}, (), "1 is the number of a row: name --corpus"),
        ({"removed": 2, "kept": 0}, OF_C, "the corpus has 2 rows, and no 2"),
        ({"removed": -1, "kept": 0}, OF_C, "the corpus has 2 rows, and no -1"),
        ({"removed": 0.5, "kept": 0}, OF_C, "0.5 is neither a text nor"),
        ({"removed": "x", "kept": "y"}, ("--id-field", "id"), "name that with --corpus"),
        ({"removed": "z", "kept": "y"}, ("--id-field", "id", *OF_C), "has no row with the id 'z'"),
        ({"removed": "z", "kept": "y"}, ("--id-field", "id", *OF_C, *OF_C), "is there twice"),
        ({"removed": "z", "kept": "y"}, ("--id-field", "n", *OF_C), "is no text or integer"),
        ({"cluster": "x"}, (), "field 'cluster' is not an array"),
        ({"cluster": ["x"], "kept": "y"}, (), "'y' was kept and is not in the cluster"),
        ({"removed": "x \ud800", "kept": "y"}, (), "row 1: a text has half a surrogate pair"),
        ({"instruction": "x"}, (), "name what it was of with --corpus"),
        ({"removed": "x", "kept": "y"}, ("--rouge", "0"), "--rouge must lie in (0, 1]"),
        ({"removed": "x", "kept": "y"}, ("--to", "a.parquet"), "--to is a JSONL file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, row, options, message):
    write(tmp_path / "r.jsonl", row)
    write(tmp_path / "c.jsonl", *({"instruction": text, "id": text[0]} for text in (RIVER, SORT)))
    done = invoke("verify-removals", "r.jsonl", "--cosine", "off", *options, cwd=tmp_path)
    assert_one_line_error(done, message)
