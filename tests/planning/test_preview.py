"""A preview: the first prompts of a build, and what becomes of each line."""

from __future__ import annotations

import json

import yaml

from ray_si.config.file import parse_config
from ray_si.pipeline.prompting import Prompting
from ray_si.run.seeds import load_seeds
from tests.builds import PLANNED
from tests.command import invoke


def test_preview_shows_every_line_and_what_becomes_of_it_and_writes_nothing(
    tmp_path, planned_config
):
    done = invoke("preview", planned_config, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["prompts"]) == 3
    assert [item["classification_only"] for item in found["prompts"]] == [False, False, True]
    for item in found["prompts"]:
        assert item["prompt"].endswith("\n9.")
        assert len(item["demonstrations"]) == 8
        for line in item["lines"]:
            words = " ".join(item["completion"]["text"].split())
            assert line["text"] in words or line["reason"] == "empty_completion"
    assert len(found["instances"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_preview_shows_what_a_model_thought_apart_from_its_answer(tmp_path):
    chat = {"prompt_style": "chat", "replay": {"recording": str(tmp_path / "answers.jsonl")}}
    values = PLANNED | {"generator": PLANNED["generator"] | chat, "bootstrap": {}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    config = parse_config(values)
    prompting = Prompting(config, load_seeds("bundled")[0])
    answer = "<think>\n1. Some draft of mine.\n</think>\n\n1. Name a long river of Peru."
    row = {"prompt": prompting.render(prompting.requests(0)[0]).prompt, "completion": answer}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row))
    options = ("preview", tmp_path / "run.yaml", "--prompts", "1", "--instances", "0")
    (found,) = json.loads(invoke(*options, "--json", cwd=tmp_path).stdout)["prompts"]
    assert found["parts"]["thought"] == "1. Some draft of mine."
    assert [(line["text"], line["reason"]) for line in found["lines"]] == [
        ("Name a long river of Peru.", None)
    ]
    shown = invoke(*options, cwd=tmp_path).stdout
    assert "thought, left out (22 characters)" in shown
    assert "1 candidates: 1 kept" in shown


def test_a_preview_in_steps_shows_the_first_answer_and_what_became_of_all(tmp_path):
    values = PLANNED | {"instances": {"method": "steps", "answers": 2, "max_per_instruction": 2}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    options = ("preview", tmp_path / "run.yaml", "--prompts", "1", "--instances", "2", "--json")
    written = json.loads(invoke(*options, cwd=tmp_path).stdout)["instances"]
    assert len(written) == 2
    for item in written:
        assert item["prompt"].endswith("Output:")
        assert item["kept"]
        assert item["completion_tokens"] > item["completion"]["completion_tokens"]
