"""Configurations: what is accepted, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_si.config import RunConfig
from ray_si.config.file import load_config, parse_config
from ray_si.errors import ConfigError
from ray_si.experiments.loop import load_loop

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path):
    loop = path.name == "loop.yaml"
    assert (load_loop(str(path)).build if loop else load_config(path)).target_instructions > 0


def test_paper_yaml_has_the_papers_numbers():
    config = load_config(CONFIGS / "paper.yaml")
    drawn = config.generator.sampling.instructions
    assert (drawn.temperature, drawn.top_p, drawn.presence_penalty) == (0.7, 0.5, 2)
    assert drawn.max_tokens == 1024
    assert (config.bootstrap.demonstrations, config.bootstrap.machine_demonstrations) == (8, 2)
    assert (config.dedup.rouge, config.dedup.cosine) == (0.7, None)
    assert config.generator.sampling.classification.max_tokens == 3
    assert config.generator.sampling.output_first.max_tokens == 300
    assert config.generator.sampling.input_first.max_tokens == 350
    assert config.generator.sampling.input_first.presence_penalty == 1.5
    assert config.target_instructions == 52000
    assert config.bootstrap.drop_unfinished == "all"
    assert config.bootstrap.sentence_case


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, "no key sede (did you mean seed?)"),
        ({"generator": {"replica": 2}}, "did you mean generator.replicas?"),
        ({"replicas": 2}, "did you mean generator.replicas?"),
        ({"dedup": {"rogue": 0.5}}, "did you mean dedup.rouge?"),
        ({"target_instructions": 0}, "target_instructions: Input should be greater"),
        ({"dedup": {"rouge": 1.5}}, "dedup.rouge"),
        ({"dedup": {"cosine": 0}}, "dedup.cosine"),
        ({"generator": {"engine": "gpt"}}, "'transformers', 'vllm'"),
        ({"bootstrap": {"machine_demonstrations": 9}}, "more than demonstrations"),
        ({"bootstrap": {"min_words": 9, "max_words": 8}}, "more than max_words"),
        ({"generator": {"model": None}}, "generator: model is needed"),
        ({"seed": 1, "output": "parquet"}, "output"),
        ({"generator": {"openai": {"base_url": "https://me:secret@host/v1"}}}, "stored in the run"),
        ({"generator": {"openai": {"base_url": "https://host/v1?key=1"}}}, "stored in the run"),
        ({"generator": {"openai": {"base_url": "host/v1"}}}, "write http://host or https://host"),
        ({"generator": {"openai": {"omit": ["sede"]}}}, "generator.openai.omit.0"),
        (
            {"generator": {"engine": "vllm", "gpus": 1, "vllm": {"tensor_parallel_size": 2}}},
            "generator: gpus must be 2",
        ),
        ({"budget": {"dollars": 1}}, "budget.dollars needs generator.prices"),
        ({"budget": {"tokens": 0}}, "budget.tokens"),
        ({"target_instructions": True}, "target_instructions: true and false"),
        ({"dedup": {"cosine": True}}, "dedup.cosine: true and false"),
        ({"generator": {"cpus": float("inf")}}, "generator.cpus: Input should be a finite number"),
        ({"classification": {"threshold": float("nan")}}, "classification.threshold"),
    ],
)
def test_a_wrong_key_or_value_is_named(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cosine_off_switches_the_gate_off():
    assert parse_config({"dedup": {"cosine": False}}).dedup.cosine is None


def test_one_language_needs_no_list():
    assert parse_config({"card": {"language": "en"}}).card.language == ("en",)


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


def test_the_fingerprint_takes_evaluation_sets_by_content_and_order():
    base = parse_config({"decontaminate": ["a.jsonl", "b.jsonl"]})
    moved = parse_config({"decontaminate": ["c.jsonl", "d.jsonl"]})
    assert base.fingerprint("seeds", ["1", "2"]) == moved.fingerprint("seeds", ["1", "2"])
    found = {base.fingerprint("seeds", sets) for sets in ([], ["1"], ["1", "2"], ["2", "1"])}
    assert len(found) == 4


def test_the_fingerprint_ignores_placement_and_nothing_else():
    base = RunConfig().fingerprint("seeds")
    placed = parse_config(
        {
            "seeds": "elsewhere",
            "card": {"license": "mit", "language": "en"},
            "generator": {"replicas": 9, "gpus": 1, "max_batch": 7, "replay": {"latency_s": 1}},
        }
    )
    assert placed.fingerprint("seeds") == base
    assert RunConfig().fingerprint("other seeds") != base
    for values in ({"seed": 1}, {"dedup": {"rouge": 0.6}}, {"bootstrap": {"lookahead": 0}}):
        assert parse_config(values).fingerprint("seeds") != base


def test_what_the_bootstrap_asks_is_the_first_generators_in_either_mode():
    config = parse_config({"instance_generator": {"model": "other"}})
    for purpose in ("instructions", "joint"):
        assert config.generator_for(purpose) is config.generator
    for purpose in ("classification", "input_first", "output_first"):
        assert config.generator_for(purpose) is config.instance_generator


def test_tokens_cost_what_the_generator_of_their_purpose_is_priced_at():
    prompt, completion = {"instructions": 1_000_000, "input_first": 2_000_000}, {"input_first": 500}
    assert parse_config({}).dollars(prompt, completion) is None
    values = {"generator": {"prices": {"prompt": 3, "completion": 5}}}
    assert parse_config(values).dollars(prompt, completion) == pytest.approx(9.0025)
    other = {"instance_generator": {"model": "other", "prices": {"prompt": 1, "completion": 0}}}
    assert parse_config(values | other).dollars(prompt, completion) == pytest.approx(5.0)
    other["instance_generator"]["prices"] = None
    assert parse_config(values | other).dollars(prompt, completion) == pytest.approx(3.0)


def test_the_fingerprint_ignores_limits_prices_addresses_and_engines_not_in_use():
    def fingerprint(engine, **values):
        generator = {"engine": engine, "model": "m", **values.pop("generator", {})}
        return parse_config({"generator": generator} | values).fingerprint("seeds")

    base = fingerprint("openai")
    pacing = {"base_url": "http://here:1/v1", "concurrency": 9, "requests_per_minute": 5}
    prices = {"prompt": 1, "completion": 2}
    values = {"openai": pacing, "prices": prices, "vllm": {"quantization": "awq"}}
    assert fingerprint("openai", generator=values, budget={"tokens": 9, "dollars": 1}) == base
    assert fingerprint("openai", generator={"openai": {"omit": ["seed"]}}) != base
    assert fingerprint("vllm") != base
    assert fingerprint("vllm", generator={"vllm": {"quantization": "awq"}}) != fingerprint("vllm")


def test_batching_paces_the_transformers_engine_and_leaves_room_for_others_on_a_gpu():
    made = [parse_config({"generator": {"batching": each}}) for each in ("static", "continuous")]
    assert made[0].fingerprint("") == made[1].fingerprint("")
    assert made[1].generator.engine_options()["batching"] == "continuous"
    assert "gpu_share" not in made[1].generator.engine_options()
    half = parse_config({"generator": {"gpus": 0.5}}).generator.engine_options()
    assert half["gpu_share"] == 0.5
    with pytest.raises(ConfigError, match="batching"):
        parse_config({"generator": {"batching": "dynamic"}})


def test_limits_of_an_endpoint_are_shared_among_replicas():
    openai = {"concurrency": 10, "requests_per_minute": 60, "tokens_per_minute": None}
    values = {"engine": "openai", "model": "m", "replicas": 4, "openai": openai}
    generator = parse_config({"generator": values}).generator
    options = generator.engine_options()
    assert (options["concurrency"], options["requests_per_minute"]) == (3, 15)
    assert options["tokens_per_minute"] is None
    assert generator.slots == 10


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


def test_a_stored_configuration_holds_its_prompts_and_reads_back_the_same():
    config = parse_config({"generator": {"prompt_style": "chat"}})
    stored = config.model_dump(mode="json")
    assert set(stored["prompts"]) == {
        f"chat_{kind}" for kind in ("instructions", "classification", "input_first", "output_first")
    }
    assert parse_config(stored) == config


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
    ("values", "message"),
    [
        (
            {"bootstrap": {"demonstration_sampling": "diverse"}, "dedup": {"cosine": False}},
            "needs the cosine gate",
        ),
        ({"language": {"keywords": ["a", " "]}}, "language.keywords: an empty text"),
        ({"language": {"headings": {"input": ""}}}, "language.headings.input"),
        ({"language": {"labels": ["Ja"]}}, "language.labels"),
        ({"language": {"heading": {}}}, "did you mean language.headings?"),
        ({"bootstrap": {"mode": "alpaca"}}, "'instructions' or 'joint'"),
    ],
)
def test_wrong_ways_to_generate_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert message in str(caught.value)


def test_the_german_example_has_templates_for_all_that_it_uses():
    config = load_config(CONFIGS / "german.yaml")
    ours = RunConfig.model_validate({"bootstrap": {"classification_share": 0.2}}).prompts
    assert config.prompts.keys() == ours.keys()
    assert all(config.prompts[name] != text for name, text in ours.items())
    assert config.labels == (" Klassifikation", " Generierung")
