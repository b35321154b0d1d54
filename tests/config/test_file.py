"""Reading configurations: YAML, overrides, paths, folders of prompts."""

from __future__ import annotations

import pytest

from ray_si.config import RunConfig
from ray_si.config.file import load_config, parse_config, read_values
from ray_si.errors import ConfigError


@pytest.mark.parametrize("text", ["", "- a list", "seed: [", "just text", "seed: 2024-13-45"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_are_dotted_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\n")
    config = load_config(
        path, ["generator.replicas=4", "dedup.cosine=off", "generator.sampling.input_first.top_k=7"]
    )
    assert config.seed == 3
    assert config.generator.replicas == 4
    assert config.dedup.cosine is None
    assert config.generator.sampling.input_first.top_k == 7


@pytest.mark.parametrize("override", ["seed", "=1", "seed.deep=1", "seed=[1", "seed=2024-13-45"])
def test_a_malformed_override_is_named(tmp_path, override):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="--set"):
        load_config(path, [override])


def test_seeds_are_found_beside_the_configuration(tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}")
    (tmp_path / "run.yaml").write_text("seeds: mine.jsonl\n")
    assert load_config(tmp_path / "run.yaml").seeds == str(tmp_path / "mine.jsonl")


def test_evaluation_sets_are_found_beside_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text("{}")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "beside.jsonl").write_text("{}")
    path = tmp_path / "deep" / "run.yaml"
    path.write_text("decontaminate: [here.jsonl, beside.jsonl, absent.jsonl, s3://data/x.jsonl]\n")
    assert load_config("deep/run.yaml").decontaminate == (
        "here.jsonl",
        "deep/beside.jsonl",
        "absent.jsonl",
        "s3://data/x.jsonl",
    )
    assert load_config(path, ["decontaminate=one.jsonl"]).decontaminate == ("one.jsonl",)


def test_an_override_of_one_section_leaves_its_yaml_aliases_alone(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("generator: {sampling: {input_first: &same {top_k: 5}, output_first: *same}}\n")
    sampling = load_config(path, ["generator.sampling.input_first.top_k=7"]).generator.sampling
    assert (sampling.input_first.top_k, sampling.output_first.top_k) == (7, 5)


def _prompts(folder, **templates):
    folder.mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_prompts_counts_by_content_not_by_path(tmp_path):
    own = {"completion_input_first": "Tue dies: {instruction}"}
    one, two = _prompts(tmp_path / "one", **own), _prompts(tmp_path / "two", **own)
    (two / "README").write_text("not a template")
    (tmp_path / "run.yaml").write_text("prompts: one\n")
    first = load_config(tmp_path / "run.yaml")  # found beside the configuration
    second = load_config(tmp_path / "run.yaml", [f"prompts={two}"])
    assert first.prompts == second.prompts
    assert first.prompts["completion_input_first"] == "Tue dies: {instruction}"
    assert "Task:" in first.prompts["completion_output_first"]  # ours
    assert first.fingerprint("x") == second.fingerprint("x") != RunConfig().fingerprint("x")
    _prompts(one, completion_input_first="Tue das: {instruction}")
    assert load_config(tmp_path / "run.yaml").fingerprint("x") != first.fingerprint("x")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"completion_inputfirst": "{instruction}"}, "did you mean completion_input_first?"),
        ({"completion_input_first": "{task}"}, "unknown placeholder {task}"),
        ({"chat_instructions": "{new}"}, "lacks the placeholder {demonstrations}"),
        ({}, "holds no .txt file"),
    ],
)
def test_wrong_prompts_are_refused_in_one_line(tmp_path, files, message):
    folder = _prompts(tmp_path / "prompts", **files)
    for value in (str(folder), str(tmp_path / "absent")):
        with pytest.raises(ConfigError) as caught:
            parse_config({"prompts": value})
        assert "\n" not in str(caught.value)
        assert (message if value == str(folder) else "there is no folder") in str(caught.value)


def test_prompts_that_are_no_text_are_refused(tmp_path):
    folder = _prompts(tmp_path / "prompts")
    (folder / "chat_joint.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the templates"):
        parse_config({"prompts": str(folder)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ndedup: {rouge: 0.6}\nseed: 2\n", "line 3: seed was given on line 1 already"),
        (
            "dedup:\n  rouge: 1\ngenerator: {}\ndedup:\n  cosine: off\n",
            "line 4: dedup was given on",
        ),
        ("dedup:\n  rouge: 1\n  rouge: 0.5\n", "line 3: rouge was given on line 2 already"),
        ("dedup: {rouge: 1, rouge: 0.5}\n", "line 1: rouge was given on line 1 already"),
        ("output: &a {format: both}\ncard: {title: x, title: y}\n", "line 2: title was given"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_lines(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_key_given_twice_in_an_override_is_refused():
    with pytest.raises(ConfigError, match="line 1: rouge was given on line 1 already"):
        read_values(None, ["dedup={rouge: 1, rouge: 0.5}"])


def test_a_merged_section_may_say_a_key_again(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "\ufeffgenerator:\n  sampling:\n    input_first: &same {max_tokens: 9, top_p: 0.5}\n"
        "    output_first: {<<: *same, top_p: 0.6}\n",
        encoding="utf-8",
    )
    sampling = load_config(path).generator.sampling
    assert (sampling.output_first.max_tokens, sampling.output_first.top_p) == (9, 0.6)
