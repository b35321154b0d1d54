"""preview and estimate from the command line: what is shown, what is refused."""

from __future__ import annotations

import json

import pytest

from ray_si.config.file import parse_config
from ray_si.planning.preview import DryRun
from tests.builds import PLANNED
from tests.command import assert_one_line_error, invoke


def test_preview_in_words(planned_config):
    done = invoke("preview", planned_config, "--prompts", 2, "--instances", 1)
    assert done.returncode == 0, done.stderr
    assert "prompt 1 of 2 (r00000-00000)" in done.stdout
    assert "kept" in done.stdout
    assert done.stdout.rstrip().endswith("nothing was written")


@pytest.mark.parametrize("verb", ["preview", "estimate"])
@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["dedup.rogue=1"], "did you mean dedup.rouge?"),
        (["seeds=absent.jsonl"], "no seed tasks at absent.jsonl"),
        (["prompts=absent"], "there is no folder absent"),
    ],
)
def test_bad_input_is_one_line(planned_config, verb, sets, message):
    options = [option for value in sets for option in ("--set", value)]
    assert_one_line_error(invoke(verb, planned_config, *options), message)


def test_what_would_steer_a_terminal_or_is_markup_is_shown_as_text(tmp_path):
    prompt = DryRun(parse_config(PLANNED)).decide(DryRun(parse_config(PLANNED)).ask(1)).answered[0]
    answer = " [red]Name[/] the \x1b[2J longest river.\n10. Name the [bold]oldest town there."
    recording = tmp_path / "answers.jsonl"
    recording.write_text(json.dumps({"prompt": prompt.prompt, "completion": answer}) + "\n")
    replay = {"engine": "replay", "model": None, "replay": {"recording": str(recording)}}
    values = PLANNED | {"generator": replay, "bootstrap": {}}
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    done = invoke("preview", tmp_path / "run.yaml", "--prompts", 1)
    assert done.returncode == 0, done.stderr
    assert "[red]Name[/] the \ufffd[2J longest river." in done.stdout
    assert "\x1b" not in done.stdout
    assert "engine_error" in done.stdout  # the recording has no instances
