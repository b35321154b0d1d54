"""Evaluation sets: which files are read, what of them is compared, what is refused."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.errors import CorpusError
from ray_si.run.evaluation import (
    EvaluationSet,
    from_table,
    load_sets,
    texts_of_instance,
    texts_of_item,
    to_table,
)

LONG = "What is the longest river of the continent?"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(path):
    (one,) = load_sets([str(path)])
    return one.texts


def test_an_item_is_compared_by_instruction_by_both_and_by_a_long_input():
    assert list(texts_of_item(" Answer. ", [LONG, "Egypt", " "])) == [
        "Answer.",
        f"Answer.\n{LONG}",
        LONG,
        "Answer.\nEgypt",
    ]
    assert list(texts_of_item("", ["Egypt"])) == ["Egypt"]
    assert list(texts_of_item(" ", [""])) == []


def test_an_instance_is_compared_by_input_and_by_both():
    assert texts_of_instance("Answer.", " Egypt ") == ["Egypt", "Answer.\nEgypt"]
    assert texts_of_instance("Greet.", " ") == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "A b c.", "instances": [{"input": "x", "output": "y"}, {"input": ""}]}, 2),
        ({"instruction": "A b c.", "input": LONG, "output": "y"}, 3),
        ({"question": "A b c?", "answer": "y"}, 1),
        ({"prompt": "A b c?", "context": LONG}, 3),
        ({"text": "A b c."}, 1),
        ({"input": "A b c.", "target": "y"}, 1),
    ],
)
def test_rows_may_name_their_texts_in_the_usual_ways(tmp_path, row, expected):
    path = write(tmp_path / "set.jsonl", row)
    assert len(texts(path)) == expected
    assert texts(path)[0].startswith("A b c")


def test_parquet_compressed_lines_and_json_hold_the_same_texts(tmp_path):
    rows = [{"instruction": "A b c.", "input": LONG}, {"instruction": "D e f.", "input": ""}]
    expected = texts(write(tmp_path / "set.jsonl", *rows))
    assert expected == ["A b c.", f"A b c.\n{LONG}", LONG, "D e f."]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    data = (tmp_path / "set.jsonl").read_bytes()
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "set.jsonl.zst").write_bytes(pa.compress(data, "zstd", asbytes=True))
    (tmp_path / "set.json").write_text(json.dumps(rows))
    (tmp_path / "examples.json").write_text(json.dumps({"examples": rows}))
    (tmp_path / "set.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    for path in tmp_path.iterdir():
        assert texts(path) == expected, path


def test_a_natural_instructions_task_is_its_definition_and_instances(tmp_path):
    task = {
        "Definition": ["Answer the question."],
        "Positive Examples": [{"input": "not compared", "output": "x"}],
        "Instances": [{"id": "1", "input": LONG, "output": ["The Nile."]}],
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    assert texts(tmp_path / "task.json") == [
        "Answer the question.",
        f"Answer the question.\n{LONG}",
        LONG,
    ]


def test_a_folder_is_one_set(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "notes.txt").write_text("ignored")
    for name in ("b", "a"):
        (folder / f"{name}.json").write_text(json.dumps({"Definition": name, "Instances": []}))
    assert load_sets([str(folder)]) == [EvaluationSet("tasks", ["a", "b"])]


def test_the_published_evaluation_tasks_are_read(reference):
    found = texts(reference / "user_oriented_instructions.jsonl")
    rows = [json.loads(line) for line in (reference / "user_oriented_instructions.jsonl").open()]
    assert {row["instruction"].strip() for row in rows} <= set(found)
    assert len(found) > len(rows)


def test_sets_on_s3_are_read(tmp_path, s3):
    s3.put_object(Bucket="data", Key="eval/set.jsonl", Body=b'{"question": "A b c?"}\n')
    assert load_sets(["s3://data/eval/set.jsonl"]) == [EvaluationSet("set.jsonl", ["A b c?"])]


def test_names_that_repeat_are_numbered_and_tables_keep_the_sets(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [
        write(tmp_path / "set.jsonl", {"text": "A b c."}, {"text": "A b c."}),
        write(tmp_path / "other" / "set.jsonl", {"text": "A b c."}, {"text": "D e."}),
    ]
    sets = load_sets(paths)
    assert [(one.name, one.texts) for one in sets] == [
        ("set.jsonl", ["A b c."]),
        ("set.jsonl (2)", ["A b c.", "D e."]),
    ]
    assert from_table(to_table(sets)) == sets


def test_the_digest_is_of_the_texts_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "A b c."}, {"text": "D e."})
    other = write(tmp_path / "b.jsonl", {"question": "A b c.", "id": 1}, {"question": "D e."})
    swapped = write(tmp_path / "c.jsonl", {"text": "D e."}, {"text": "A b c."})
    first, second, third = (one.sha256 for one in load_sets([path, other, swapped]))
    assert first == second != third


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, r"there is no file .*absent\.jsonl"),
        ("set.jsonl", "", "holds no text to compare"),
        ("set.jsonl", "\n\n", "holds no text to compare"),
        ("set.json", "", "holds no text to compare"),
        ("set.jsonl", '{"text": " "}\n', "holds no text to compare"),
        ("set.jsonl", '{"label": "x"}\n', "no field 'instruction'; there are: label; use one of"),
        ("set.jsonl", '{"text": "x"}\n{"text": 3}\n', "line 2: field 'text' is a number"),
        ("set.jsonl", '{"text": "x", "input": 3}\n', "line 1: field 'input' is not a string"),
        ("set.jsonl", '{"text": "x", "instances": 3}\n', "line 1: field 'instances'"),
        ("set.csv", "text\nx\n", "unknown extension"),
        ("set.json", "{", "is not valid JSON"),
        ("set.json", "[]", "holds no text to compare"),
        ("set.jsonl", '{"text": "x", "input": "\\ud800"}\n', "line 1: field 'input' has half a"),
        ("set.json", '{"Definition": "\\udc00", "Instances": []}', "'Definition' has half a"),
        ("set.json", '{"a": 1}', "neither an array of rows"),
        ("set.json", '[{"label": 1}]', "no field with a text"),
        ("set.json", '[{"text": "x"}, {"text": "\\ud800"}]', "row 2: field 'text' has half"),
        ("set.json", '{"Definition": 3}', "field 'Definition' is not a string"),
        ("set.parquet", "x", "cannot read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_sets([str(tmp_path / name)])
    assert "\n" not in str(caught.value)
    assert "--text-field" not in str(caught.value)


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="no file in this folder"):
        load_sets([str(tmp_path)])


def test_a_folder_s_empty_parts_are_said_and_its_other_files_are_no_parts(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.JSONL").write_text('\ufeff{"text": "one\u2028two\x85three"}\n', encoding="utf-8")
    (folder / "b.ndjson").write_text('{"text": "four"}\n')
    (folder / "c.jsonl").touch()
    (folder / "d.json").write_text("[]")
    (folder / "e.parquet").touch()
    pq.write_table(pa.table({"text": pa.array(["five"], pa.string_view())}), folder / "f.parquet")
    (folder / "._a.jsonl").write_bytes(b"\x00\x05\x16\x07")
    (folder / "dataset_infos.json").write_text('{"default": {}}')
    (found,) = load_sets([str(folder)])
    assert found.texts == ["one\u2028two\x85three", "four", "five"]
    assert [record.args[1] for record in caplog.records] == ["c.jsonl", "d.json", "e.parquet"]
