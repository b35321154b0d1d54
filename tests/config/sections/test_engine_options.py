"""Options of one engine each: what reaches the engine, and what is left aside."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.openai.protocol import body_of
from ray_si.errors import ConfigError


def test_a_configuration_that_still_names_batching_is_the_one_without():
    old = parse_config({"generator": {"batching": "continuous"}})
    assert old == parse_config({})


def test_what_paces_vllm_may_change_on_resume_and_what_it_writes_may_not():
    def fingerprint(**vllm):
        generator = {"engine": "vllm", "model": "m", "vllm": vllm}
        return parse_config({"generator": generator}).fingerprint("")

    pace = {"max_num_seqs": 64, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 33}
    assert fingerprint(engine_kwargs=pace, max_model_len=4096) == fingerprint()
    assert fingerprint(engine_kwargs={"kv_cache_dtype": "fp8"}) != fingerprint()
    assert fingerprint(engine_kwargs={"hf_overrides": {}}) != fingerprint()
    assert fingerprint(lora="adapter") != fingerprint()


def test_each_parameter_that_an_endpoint_may_not_take_can_be_left_out():
    sampling = SamplingParams(top_p=0.9, top_k=7, presence_penalty=0.5, stop=("#",))
    asked = Request("Hi", sampling, 1, "answer")
    names = sorted(body_of(asked, "m").keys() - {"model", "prompt", "max_tokens"})
    options = parse_config({"generator": {"openai": {"omit": names}}}).generator.openai
    assert set(body_of(asked, "m", options.omit)) == {"model", "prompt", "max_tokens"}


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"gpus": 8}, "gpus must be 1, what vllm.tensor_parallel_size x pipeline"),
        ({"gpus": 2, "vllm": {"tensor_parallel_size": 4}}, "gpus must be 4"),
        ({"gpus": 0.5}, "set vllm.gpu_memory_utilization to less than gpus, such as 0.45"),
        ({"vllm": {"engine_kwargs": {"data_parallel_size": 2}}}, "set generator.replicas"),
        ({"vllm": {"engine_kwargs": {"tensor_parallel_size": 2}}}, "vllm.tensor_parallel_size"),
        ({"vllm": {"engine_kwargs": {"dtype": "half"}}}, "generator.dtype"),
        ({"vllm": {"engine_kwargs": {"max_num_seqs": 0}}}, "a whole number from 1 on"),
        (
            {"sampling": {"joint": {"presence_penalty": 2.5}}},
            "sampling.joint.presence_penalty must lie between -2 and 2 for the vllm engine",
        ),
        ({"min_replicas": 3, "replicas": 2}, "min_replicas is more than replicas"),
    ],
)
def test_what_vllm_could_not_use_is_refused(generator, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"generator": {"engine": "vllm", "model": "m", **generator}})


def test_slots_are_the_engines_where_the_configuration_names_none():
    def slots(**generator):
        return parse_config({"generator": generator}).generator.slots

    assert slots() == 32
    assert slots(replicas=2, max_batch=8) == 16
    assert slots(engine="vllm", model="m") == 256
    named = {"engine_kwargs": {"max_num_seqs": 600}}
    assert slots(engine="vllm", model="m", max_batch=8, vllm=named) == 600
    options = parse_config({"generator": {"engine": "vllm", "model": "m"}}).generator
    assert options.engine_options()["max_batch"] is None


def test_limits_of_an_endpoint_are_shared_among_replicas():
    openai = {"concurrency": 10, "requests_per_minute": 60, "tokens_per_minute": None}
    values = {"engine": "openai", "model": "m", "replicas": 4, "openai": openai}
    generator = parse_config({"generator": values}).generator
    options = generator.engine_options()
    assert (options["concurrency"], options["requests_per_minute"]) == (3, 15)
    assert options["tokens_per_minute"] is None
    assert generator.slots == 10
