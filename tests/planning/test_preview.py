"""A preview: the first prompts of a build, and what becomes of each line."""

from __future__ import annotations

import json

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
