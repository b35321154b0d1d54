"""The vllm engine on a small model, where vLLM is installed: vllm-cpu will do."""

from __future__ import annotations

import asyncio

import pytest

from ray_si.config_file import parse_config
from ray_si.engines import bundled
from ray_si.engines.base import Request, SamplingParams
from ray_si.errors import EngineError
from ray_si.self_instruct.prompts import LABELS, classification_prompt

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
PROMPT = "1. Name three rivers of Europe.\n2. Tell a joke about the weather.\n3."


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine(loop):
    pytest.importorskip("vllm")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        environment.setenv("VLLM_NO_USAGE_STATS", "1")
        environment.setenv("HF_HUB_OFFLINE", "1")
        from ray_si.engines import registry

        options = parse_config(
            {
                "generator": {
                    "engine": "vllm",
                    "dtype": "float32",
                    "max_batch": 8,
                    "vllm": {"max_model_len": 1024, "engine_kwargs": {"enforce_eager": True}},
                }
            }
        ).generator.engine_options()
        made = registry.create("vllm", MODEL, options)
        yield made
        made.close()


@pytest.fixture(scope="module")
def transformers_engine():
    from ray_si.engines.loading import load
    from ray_si.engines.transformers import TransformersEngine

    return TransformersEngine(load(MODEL, dtype="float32"))


@pytest.fixture
def ask(loop):
    async def all_of_them(engine, requests):
        return await asyncio.gather(*map(engine.generate, requests))

    return lambda engine, *requests: loop.run_until_complete(all_of_them(engine, requests))


def request(prompt=PROMPT, seed=0, **sampling):
    return Request(prompt, SamplingParams(**{"max_tokens": 24} | sampling), seed)


def labelling(style):
    prompt = classification_prompt("Tell whether the review is positive.", style=style)
    params = SamplingParams(max_tokens=3, temperature=0)
    return Request(prompt.prompt, params, 1, "classification", LABELS[style])


def test_greedy_text_is_that_of_transformers(engine, transformers_engine, ask):
    asked = [request(temperature=0), request([{"role": "user", "content": "Hi!"}], temperature=0)]
    ours, theirs = ask(engine, *asked), ask(transformers_engine, *asked)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.text, mine.finish_reason) == (other.text, other.finish_reason)
        assert mine.prompt_tokens == other.prompt_tokens
        assert mine.completion_tokens == other.completion_tokens
        assert mine.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-3)


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_label_scores_are_those_of_transformers(engine, transformers_engine, ask, style):
    ours, theirs = (ask(each, labelling(style))[0] for each in (engine, transformers_engine))
    assert ours.label_logprobs == pytest.approx(theirs.label_logprobs, abs=2e-3)
    assert ours.text == theirs.text


def test_seeds_decide_the_draw(engine, ask):
    seeds = (7, 2**62 + 5, 7)
    first, second, third = ask(engine, *(request(seed=seed) for seed in seeds))
    assert first.text == third.text != second.text


def test_a_stop_string_ends_the_text_and_one_that_never_comes_leaves_it_to_the_limit(engine, ask):
    (whole,) = ask(engine, request(temperature=0))
    word = whole.text.split()[3]
    stopped, endless = ask(
        engine,
        request(temperature=0, stop=(word,)),
        request(temperature=0, stop=("never comes",), max_tokens=7),
    )
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(word)]
    assert (endless.finish_reason, endless.completion_tokens) == ("length", 7)


def test_too_long_a_prompt_is_that_rows_refusal(engine, ask):
    long, short = ask(engine, request("word " * 2000), request())
    assert (long.finish_reason, long.text) == ("refused", "")
    assert "exceed the context of 1024" in long.error
    assert short.text


def test_what_vllm_cannot_take_is_an_engine_error(engine, tmp_path):
    from ray_si.engines.vllm import VLLMEngine

    with pytest.raises(EngineError, match="vLLM could not start"):
        VLLMEngine(str(tmp_path))
    with pytest.raises(EngineError, match=r"no LoRA adapter.*adapter_config\.json"):
        VLLMEngine(MODEL, lora=str(tmp_path))
    with pytest.raises(EngineError, match=r"vLLM could not start.*nonsense"):
        VLLMEngine(MODEL, engine_kwargs={"nonsense": 1})


def test_placement_is_that_of_rays_own_llm_serving():
    pytest.importorskip("vllm")
    from ray.serve.llm import LLMConfig

    from ray_si.distributed.placement import placement

    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    values = {"engine": "vllm", "gpus": 4, "cpus": 1, "vllm": sizes}
    ours = placement(parse_config({"generator": values}).generator)
    theirs = LLMConfig(
        model_loading_config={
            "model_id": "m",
            "model_source": bundled.resolve(MODEL),
        },
        engine_kwargs=sizes,
        deployment_config={"ray_actor_options": {"num_cpus": 1}},
    ).get_engine_config()
    bundles = [{"GPU": bundle["GPU"]} for bundle in ours["placement_group_bundles"]]
    assert bundles == [{"GPU": bundle["GPU"]} for bundle in theirs.placement_bundles]
    assert ours["placement_group_strategy"] == theirs.placement_strategy
