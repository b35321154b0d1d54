"""Configurations: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import pytest

from ray_si.config import RunConfig
from ray_si.config.file import parse_config, stored_config
from ray_si.errors import ConfigError


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
        ({"dedup": {"gpus": 1.5}}, "dedup.gpus: Input should be less than or equal to 1"),
        ({"dedup": {"gpus": 1, "cosine": False}}, "dedup: gpus is for the cosine"),
        (
            {"dedup": {"gpus": 0.5, "embedding_index": "Flat"}},
            "dedup: gpus: embedding_index Flat is searched on processors",
        ),
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
            "dedup": {"shards": 4, "gpus": 0.5},
            "generator": {"replicas": 9, "gpus": 1, "max_batch": 7, "replay": {"latency_s": 1}},
        }
    )
    assert placed.fingerprint("seeds") == base
    assert RunConfig().fingerprint("other seeds") != base
    for values in ({"seed": 1}, {"dedup": {"rouge": 0.6}}, {"bootstrap": {"lookahead": 0}}):
        assert parse_config(values).fingerprint("seeds") != base


def test_gpus_of_the_gate_are_refused_for_a_run_begun_with_a_kind_that_needs_processors():
    config = parse_config({"dedup": {"gpus": 0.5}})
    assert config.as_begun({"dedup": {"embedding_index": "exact"}}).dedup.gpus == 0.5
    with pytest.raises(ConfigError, match=r"^dedup.gpus: the run was begun with .* Flat"):
        config.as_begun({"dedup": {"embedding_index": "Flat"}})


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


def test_the_identity_of_defaults_has_the_keys_that_the_first_runs_had():
    identity = RunConfig().identity()
    assert identity.keys() == {
        "seed", "target_instructions", "generator", "instance_generator", "embedder", "bootstrap",
        "classification", "instances", "dedup", "language", "prompts", "output",
    }  # fmt: skip
    assert identity["generator"].keys() == {
        "engine", "model", "revision", "prompt_style", "dtype", "trust_remote_code",
        "request_timeout_s", "sampling",
    }  # fmt: skip


def test_later_keys_count_where_they_are_set():
    changed = parse_config(
        {
            "rules": "original",
            "reasoning": {"expected": True},
            "classification": {"method": "prompt"},
        }
    ).identity()
    assert changed["rules"] == "original"
    values = {"prompt_style": "chat", "chat_template_kwargs": {"enable_thinking": False}}
    generator = parse_config({"generator": values}).identity()["generator"]
    assert generator["chat_template_kwargs"] == {"enable_thinking": False}
    assert changed["reasoning"]["expected"] is True


def test_rules_and_thoughts_that_cannot_go_together_with_the_rest_are_refused():
    with pytest.raises(ConfigError, match=r"^configuration: rules original .* bootstrap\.mode"):
        parse_config({"rules": "original", "bootstrap": {"mode": "joint"}})
    with pytest.raises(
        ConfigError, match=r"reasoning\.expected: .* classification\.method to text"
    ):
        parse_config({"reasoning": {"expected": True}})
    values = {"reasoning": {"expected": True}, "classification": {"method": "text"}}
    with pytest.raises(
        ConfigError, match=r"no thought fits into 3 tokens: set generator\.sampling"
    ):
        parse_config(values)


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


def test_a_stored_configuration_holds_its_prompts_and_reads_back_the_same():
    config = parse_config({"generator": {"prompt_style": "chat"}})
    stored = config.model_dump(mode="json")
    assert set(stored["prompts"]) == {
        f"chat_{kind}" for kind in ("instructions", "classification", "input_first", "output_first")
    }
    assert parse_config(stored) == config


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


def test_a_run_goes_on_under_the_default_that_it_began_with():
    former = {"dedup": {"tokenizer": "reference", "embedding_index": "Flat"}}
    begun = RunConfig.model_validate(former).model_dump(mode="json")
    plain = parse_config({"dedup": {"rouge": 0.6}})
    assert plain.dedup.tokenizer == "auto"
    assert plain.as_begun(begun).dedup.tokenizer == "reference"
    assert plain.as_begun(begun).dedup.embedding_index == "Flat"
    assert plain.as_begun(begun).dedup.rouge == 0.6
    assert RunConfig().as_begun(begun).fingerprint("x") == RunConfig.model_validate(
        begun
    ).fingerprint("x")
    for stored in ({}, RunConfig().model_dump(mode="json")):
        assert plain.as_begun(stored) == plain
    set_ = parse_config({"dedup": {"tokenizer": "auto"}})
    assert set_.as_begun(begun).dedup.tokenizer == "auto"


def test_a_run_goes_on_with_the_sampling_that_it_began_with():
    """Earlier versions took 256, 0.7 and 1 for what a purpose's section left out."""
    given = {"sampling": {"classification": {"max_tokens": 1000}}}
    values = {"generator": given, "instance_generator": {"model": "other", **given}}
    config = parse_config(values)
    begun = config.model_dump(mode="json")
    for section in values:
        begun[section]["sampling"]["classification"]["temperature"] = 0.7
    assert config.as_begun(begun).fingerprint("x") == stored_config(begun).fingerprint("x")
    for stored in ({}, config.model_dump(mode="json")):
        assert config.as_begun(stored) == config
    given["sampling"]["classification"]["temperature"] = 0
    for other in (parse_config(values), parse_config({"instance_generator": {"model": "other"}})):
        assert other.as_begun(begun).fingerprint("x") == other.fingerprint("x")


def test_what_rows_are_scored_by_is_checked_and_changes_nothing_else():
    config = parse_config({"scores": {"length": None, "mine": {"kind": "length", "of": "input"}}})
    assert config.identity() == parse_config({}).identity()
    with pytest.raises(ConfigError, match="did you mean unit"):
        parse_config({"scores": {"length": {"units": "words"}}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bootstrap": {"method": "plans"}}, "bootstrap.method"),
        ({"bootstrap": {"method": "plan", "new_instructions": 4}}, "takes new_instructions 1"),
        ({"bootstrap": {"method": "plan", "mode": "joint"}}, "set mode to instructions"),
        ({"bootstrap": {"method": "plan", "classification_share": 0.1}}, "classification_share to"),
        ({"bootstrap": {"method": "plan", "openings": ["Why do"]}}, "openings to none"),
        ({"bootstrap": {"method": "plan"}, "rules": "original"}, "none for bootstrap.method plan"),
        ({"bootstrap": {"method": "evolve", "demonstrations": 4}}, "takes demonstrations 1"),
        ({"bootstrap": {"demonstrations": 0, "machine_demonstrations": 0}}, "shows demonstrations"),
        ({"bootstrap": {"method": "template"}}, "set generator.prompt_style to chat"),
        (
            {"bootstrap": {"method": "template", "demonstrations": 2}},
            "takes demonstrations 0: leave it out",
        ),
        (
            {
                "bootstrap": {"method": "template"},
                "generator": {"engine": "openai", "model": "m", "prompt_style": "chat"},
            },
            "an endpoint leaves no user turn open",
        ),
        ({"bootstrap": {"method": "evolve", "rewrites": []}}, "which needs one at least"),
        ({"bootstrap": {"method": "plan", "rewrites": ["Add."]}}, "those of method evolve"),
        ({"bootstrap": {"method": "evolve", "rewrites": ["A.", "A."]}}, "or there twice"),
    ],
)
def test_what_a_method_of_asking_has_no_use_for_is_refused_in_a_line(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_method_takes_is_its_default_and_part_of_the_runs_identity():
    planned = parse_config({"bootstrap": {"method": "plan"}})
    assert planned.bootstrap.new_instructions == 1
    assert parse_config(planned.model_dump(mode="json")) == planned
    assert planned.identity()["bootstrap"]["method"] == "plan"
    assert not {"method", "rewrites"} & parse_config({}).identity()["bootstrap"].keys()
    evolved = parse_config({"bootstrap": {"method": "evolve", "machine_demonstrations": 0}})
    assert (evolved.bootstrap.demonstrations, evolved.bootstrap.machine_demonstrations) == (1, 0)
    assert evolved.bootstrap.rewrites
    others = parse_config({"bootstrap": {"method": "evolve", "rewrites": ["Add a limit."]}})
    assert others.fingerprint("seeds") != evolved.fingerprint("seeds")
