"""Task files, and the split of seed tasks."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import TaskError
from ray_si.records import Instance, SeedTask
from ray_si.training.tasks import digest, examples_of, load_examples

NATURAL = {
    "Definition": ["Say what the animal", "says."],
    "Positive Examples": [],
    "Instances": [
        {"id": "t-1", "input": "cow", "output": ["moo", "mooo"]},
        {"id": "t-2", "input": "cat", "output": ["meow"]},
    ],
}
SEED = {
    "id": "s1",
    "motivation_app": "none",
    "instruction": "Greet the guest.",
    "instances": [{"input": "Ann", "output": "Hello, Ann!"}, {"input": "", "output": "Hello!"}],
}


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_a_natural_instructions_task_keeps_every_reference(tmp_path):
    path = write(tmp_path / "task001_sounds.json", NATURAL)
    first, second = load_examples([path], 100)
    assert (first.id, first.task) == ("t-1", "task001_sounds")
    assert first.instruction == "Say what the animal says."
    assert first.instance == Instance("cow", "moo")
    assert first.references == ("moo", "mooo")
    assert second.references == ("meow",)


def test_a_folder_of_tasks_is_read_in_order_and_the_limit_holds_for_each(tmp_path):
    write(tmp_path / "b.json", NATURAL)
    write(tmp_path / "a.json", NATURAL | {"Definition": "One text."})
    found = load_examples([str(tmp_path)], 1)
    assert [(e.task, e.instance.input) for e in found] == [("a", "cow"), ("b", "cow")]
    assert found[0].instruction == "One text."


def test_the_seed_schema_needs_no_more_than_id_instruction_and_instances(tmp_path):
    found = load_examples([write(tmp_path / "tasks.jsonl", SEED)], 100)
    assert [e.id for e in found] == ["s1#0", "s1#1"]
    assert found[0].references == ("Hello, Ann!",)


def test_the_papers_user_oriented_tasks_are_read(reference):
    found = load_examples([str(reference / "user_oriented_instructions.jsonl")], 100)
    assert len({e.task for e in found}) == len(found) == 252


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.jsonl", None, "there are no tasks at"),
        ("empty.jsonl", "\n", "holds no task"),
        ("broken.jsonl", "{", "line 1: not valid JSON"),
        ("half.jsonl", json.dumps(SEED) + '\n{"id": "\\ud800"}', "line 2: a text has half a surr"),
        ("half.json", '{"Definition": "\\udfff"}', "half.json: a text has half a surrogate pair"),
        ("list.jsonl", "[1]", "line 1: not a JSON object"),
        ("other.jsonl", '{"prompt": "x"}', "not a task in the seed schema"),
        ("natural.jsonl", json.dumps(NATURAL), "goes in a file of its own, .json"),
        ("seed.json", json.dumps(SEED), "is no Super-NaturalInstructions task"),
        ("none.json", '{"Definition": "x", "Instances": []}', "Instances: must be a list"),
        ("odd.json", '{"Definition": 3, "Instances": [{}]}', "Definition must be"),
        ("out.json", '{"Definition": "x", "Instances": [{"input": ""}]}', "output must be"),
        ("in.jsonl", '{"id": "a", "instruction": "b", "instances": [{}]}', "field 'input'"),
        ("row.jsonl", '{"id": "a", "instruction": "b", "instances": [1]}', "not a JSON object"),
    ],
)
def test_other_files_are_refused_with_what_is_wrong(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TaskError, match=message):
        load_examples([str(path)], 100)


def test_a_folder_without_tasks_and_a_task_given_twice_are_refused(tmp_path):
    with pytest.raises(TaskError, match="holds no task file"):
        load_examples([str(tmp_path)], 100)
    path = write(tmp_path / "tasks.jsonl", SEED)
    with pytest.raises(TaskError, match=r"task 's1' was in .* already"):
        load_examples([path, path], 100)


def _seed(id_):
    return SeedTask(id_, "n", "Do it.", (Instance("", "x"),), False)


def test_the_digest_changes_with_what_answers_and_scores_depend_on():
    examples = examples_of([_seed("a"), _seed("b")], 1)
    assert digest(examples) == digest(list(examples))
    assert digest(examples) != digest(examples[:1]) != digest(examples[1:])


def test_a_folder_s_hidden_files_metadata_and_empty_files_are_no_tasks(tmp_path, caplog):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(NATURAL), encoding="utf-8")
    (tmp_path / "b.JSON").write_text(json.dumps(NATURAL | {"Definition": ["Say \u2028 it."]}))
    (tmp_path / "c.json").touch()
    (tmp_path / "._a.json").write_bytes(b"\x00\x05")
    (tmp_path / "dataset_infos.json").write_text("{}")
    found = load_examples([str(tmp_path)], 1)
    assert [(e.task, e.instruction) for e in found] == [
        ("a", "Say what the animal says."),
        ("b", "Say \u2028 it."),
    ]
    assert caplog.text.count("is empty") == 1
