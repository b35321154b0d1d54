"""Nothing accepted resembles an evaluation set, whichever way it came near."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from rapidfuzz.distance import LCSseq

from ray_si.audit.regate import regate
from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.dedup.tokens import tokenize
from ray_si.errors import ConfigError, CorpusError, RunError
from ray_si.run.evaluation import load_sets, texts_of_instance
from ray_si.run.instance_parts import read_blocks
from ray_si.run.run import Run
from ray_si.run.status import status as status_of
from tests.audit.test_verify import edit, findings, rewrite
from tests.builds import digests, replay_values
from tests.command import assert_one_line_error, invoke

LIMIT = 0.7


def rouge(a, b):
    """ROUGE-L F by another implementation of the LCS."""
    x, y = tokenize(a), tokenize(b)
    return 2 * LCSseq.similarity(x, y) / (len(x) + len(y)) if x and y else 0.0


def accepted(location):
    return [row for table in Run.open(str(location)).accepted() for row in table.to_pylist()]


def rejected(location):
    paths = sorted(location.glob("bootstrap/round-*/rejected-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def contaminated(location):
    """Rejected instructions, and (instruction, rejected instance) pairs."""
    instructions = [row for row in rejected(location) if row["reason"] == "contaminated"]
    instances = [
        (row["instruction"], item)
        for table in read_blocks(Run.open(str(location)))
        for row in table.to_pylist()
        for item in row["rejected"]
        if item["reason"] == "contaminated"
    ]
    return instructions, instances


@pytest.fixture(scope="module")
def planted(without_cluster, finished_with_cosine, tmp_path_factory):
    """Near-copies of what a run without sets accepted, two sets of them, and a run with these."""
    folder = tmp_path_factory.mktemp("decontaminated")
    location, _ = finished_with_cosine
    rows = [
        row for p in sorted(location.glob("data/*.parquet")) for row in pq.read_table(p).to_pylist()
    ]
    with_input = next(row for row in rows if row["input"])
    texts = list(dict.fromkeys(row["instruction"] for row in rows))
    first, second = texts[texts.index(with_input["instruction"]) + 1 :][:2]  # which shift no seeds
    changed = f"{first.removesuffix('.')}, please."
    backwards = " ".join(reversed(second.rstrip(".?").split()))
    assert LIMIT < rouge(changed, first) < 1
    assert rouge(backwards, second) <= LIMIT
    items = [
        {"instruction": changed, "instances": []},
        {"instruction": backwards, "instances": []},
        {"instruction": "Unrelated.", "instances": [{"input": f"{with_input['input']} Indeed."}]},
    ]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "planted.jsonl").write_text(lines)
    (folder / "other.json").write_text(json.dumps([{"question": "How do volcanoes sing?"}]))
    values = replay_values()
    values["dedup"] = {"cosine": 0.6, "most_similar": 3}
    values["decontaminate"] = [str(folder / "planted.jsonl"), str(folder / "other.json")]
    result = build(parse_config(values), str(folder / "run"))
    return folder / "run", result, values, items, (first, second, with_input)


def test_all_three_near_copies_are_stopped_and_reported(planted):
    location, result, _, items, (by_rouge, by_cosine, by_input) = planted
    instructions, instances = contaminated(location)
    found = {row["text"]: row for row in instructions}
    assert {row["source"] for row in instructions} == {"planted.jsonl"}
    assert found[by_rouge]["match"] == items[0]["instruction"]
    assert found[by_rouge]["score"] == pytest.approx(rouge(by_rouge, items[0]["instruction"]))
    assert found[by_cosine]["match"] == items[1]["instruction"]
    assert 0.6 < found[by_cosine]["score"] <= 1
    texts = {row["instruction"] for row in accepted(location)}
    assert not {by_rouge, by_cosine} & texts
    stopped = {(instruction, item["input"]): item for instruction, item in instances}
    item = stopped[by_input["instruction"], by_input["input"]]
    assert (item["source"], item["match"]) == ("planted.jsonl", items[2]["instances"][0]["input"])
    assert item["score"] > LIMIT
    of_outputs = [
        item
        for table in read_blocks(Run.open(str(location)))
        for row in table.to_pylist()
        for item in row["rejected"]
        if item["reason"] == "contaminated_output"
    ]
    assert {item["source"] for item in of_outputs} == {"planted.jsonl"}
    counts = {
        "instructions": len(instructions),
        "instances": len(instances),
        "outputs": len(of_outputs),
    }
    expected = {"planted.jsonl": counts, "other.json": {"instructions": 0, "instances": 0}}
    assert result.stats["contaminated"] == expected
    assert status_of(Run.open(str(location)))["contaminated"] == expected
    assert result.stats["rejected"]["contaminated"] == len(instructions)
    assert result.stats["instances_rejected"]["contaminated"] == len(instances)
    shown = invoke("status", location)
    assert f"planted.jsonl: {counts['instructions']} instructions" in shown.stdout


def test_no_row_resembles_any_text_of_a_set(planted):
    location, _, values, _, _ = planted
    excluded = [text for one in load_sets(values["decontaminate"]) for text in one.texts]
    for row in accepted(location):
        assert max(rouge(row["instruction"], text) for text in excluded) <= LIMIT
        assert not {item["instruction"] for item in row["most_similar"]} & set(excluded)
    rows = [
        row for p in sorted(location.glob("data/*.parquet")) for row in pq.read_table(p).to_pylist()
    ]
    assert any(row["input"] for row in rows)
    for row in rows:
        for mine in texts_of_instance(row["instruction"], row["input"]):
            assert max(rouge(mine, text) for text in excluded) <= LIMIT


def test_shards_and_resumes_and_other_places_of_the_sets_give_the_same_bytes(
    ray_session, planted, tmp_path
):
    location, result, values, _, _ = planted
    copy = tmp_path / "run"
    shutil.copytree(location, copy)
    for name in ("stats.json", "instances/manifest.json", "instances/block-00002.parquet"):
        (copy / name).unlink()
    shutil.rmtree(copy / "data")
    last = sorted(copy.glob("bootstrap/round-*"))[-1]
    (last / "manifest.json").unlink()
    moved = []
    for path in values["decontaminate"]:
        moved.append(shutil.copy(path, f"{tmp_path}/moved-{path.rpartition('/')[2]}"))
    config = parse_config(
        values | {"decontaminate": moved, "dedup": values["dedup"] | {"shards": 2}}
    )
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)
    assert not findings(copy)


def test_other_sets_are_another_run(planted, tmp_path):
    location, _, values, _, _ = planted
    with pytest.raises(RunError, match="different: seed tasks, or evaluation sets"):
        build(parse_config(values | {"decontaminate": values["decontaminate"][:1]}), str(location))


def test_verify_holds_everything_against_the_sets_again(planted, tmp_path):
    location = planted[0]
    checks = {check.name: check for check in verify(str(location))}
    assert all(check.ok for check in checks.values())
    assert checks["evaluation sets"].count > len(accepted(location))
    assert not checks["evaluation sets"].notes


@pytest.mark.parametrize("forgery", ["score", "source", "reason", "text of a set", "count"])
def test_verify_finds_what_does_not_follow_from_the_sets(planted, tmp_path, forgery):
    location, _, _, _, (by_rouge, by_cosine, _) = planted
    copy = tmp_path / "run"
    shutil.copytree(location, copy)
    where = {
        row["text"]: path.relative_to(copy).as_posix()
        for path in sorted(copy.glob("bootstrap/round-*/rejected-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    text = by_cosine if forgery == "source" else by_rouge
    key = where[text]
    changes = {
        "score": {"score": 0.99},
        "source": {"source": "other.json"},
        "reason": {"reason": "too_short"},
    }
    if forgery in changes:

        def change(rows):
            return [row | changes[forgery] if row["text"] == text else row for row in rows]

        rewrite(copy, key, change)
    elif forgery == "count":
        key = key.rpartition("/")[0] + "/manifest.json"
        edit(copy, key, contaminated={"planted.jsonl": 99})
    else:
        key = "decontaminate.parquet"
        rewrite(copy, key, lambda rows: [row | {"text": "Something else."} for row in rows])
    assert any(finding.startswith(key) for _, finding in findings(copy)), findings(copy)


@pytest.mark.parametrize("key", ["run.json", "decontaminate.parquet"])
def test_a_flipped_byte_where_the_sets_are_named_and_kept_is_found(planted, tmp_path, key):
    copy = tmp_path / "run"
    shutil.copytree(planted[0], copy)
    data = (copy / key).read_bytes()
    start = data.index(b'"decontaminate": [') if key == "run.json" else 0
    for place in range(start, len(data), 1 + (len(data) - start) // 12):
        (copy / key).write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        assert any(key in finding for _, finding in findings(copy)), place


def test_regate_holds_the_candidates_against_the_sets_too(planted, tmp_path):
    location, _, _, _, (by_rouge, by_cosine, _) = planted
    regate(str(location), str(tmp_path / "same"), {})
    assert digests(tmp_path / "same") == digests(location)
    assert not findings(tmp_path / "same")

    regate(str(location), str(tmp_path / "rouge"), {"cosine": None}, target=10_000)
    assert not findings(tmp_path / "rouge")
    texts = {row["instruction"] for row in accepted(tmp_path / "rouge")}
    assert by_rouge not in texts
    assert by_cosine in texts

    regate(str(location), str(tmp_path / "lower"), {"cosine": 0.5})
    assert not findings(tmp_path / "lower")
    lower = {row["text"] for row in rejected(tmp_path / "lower") if row["reason"] == "contaminated"}
    assert {by_rouge, by_cosine} <= lower


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, CorpusError, "there is no file"),
        ("", CorpusError, "holds no text"),
        ('{"label": 1}\n', CorpusError, "no field"),
        ('{"text": "你好，世界"}\n', ConfigError, "tokenizer finds no token"),
    ],
)
def test_a_set_that_cannot_be_used_stops_a_build_before_it_begins(
    tmp_path, content, error, message
):
    path = tmp_path / "set.jsonl"
    if content is not None:
        path.write_text(content)
    values = replay_values() | {"decontaminate": str(path)}
    values["dedup"]["tokenizer"] = "reference"  # others read every script
    with pytest.raises(error, match=message):
        build(parse_config(values), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_so_in_one_line(tmp_path):
    (tmp_path / "run.yaml").write_text("decontaminate: [eval.jsonl]\ngenerator: {engine: replay}\n")
    done = invoke("check", tmp_path / "run.yaml")
    assert_one_line_error(done, "there is no file eval.jsonl")
    (tmp_path / "eval.jsonl").write_text('{"question": "What is the capital of France?"}\n')
    done = invoke("check", tmp_path / "run.yaml")
    assert "decontaminated against eval.jsonl (1 texts)" in done.stdout
