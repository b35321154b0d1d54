"""What does not fit, into a context or into memory, is said before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ray_si.config.file import parse_config
from ray_si.engines import bundled, registry
from ray_si.engines.context import check_context
from ray_si.engines.huggingface import loading
from ray_si.engines.huggingface.memory import check_weights, count_parameters
from ray_si.errors import EngineError
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.run.seeds import load_seeds

SEEDS = load_seeds("bundled")[0]


def longest(**values):
    return longest_requests(parse_config(values), SEEDS)


@pytest.fixture
def folder(tmp_path):
    def write(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


def test_the_longest_requests_are_as_long_as_the_configuration_lets_them():
    found = {item.purpose: item for item in longest(bootstrap={"max_words": 90})}
    assert set(found) == {"instructions", "classification", "input_first", "output_first"}
    demonstrations = [
        line.split(". ", 1)[1]
        for line in found["instructions"].prompt.splitlines()
        if line[:1].isdigit() and ". " in line
    ]
    words = [len(text.split()) for text in demonstrations]
    assert words[-2:] == [90, 90]  # machine-written
    assert words[0] == max(len(seed.instruction.split()) for seed in SEEDS)
    short = {item.purpose: item for item in longest(bootstrap={"max_demonstration_words": 12})}
    assert len(short["instructions"].prompt) < len(found["instructions"].prompt) / 2
    assert found["classification"].labels


def test_a_context_that_prompts_do_not_fit_is_refused_with_what_to_lower(folder):
    check_context(folder(max_position_embeddings=4096), longest())
    with pytest.raises(EngineError, match=r"instructions may have \d+ tokens, and with 512 .*1024"):
        check_context(folder(max_position_embeddings=1024), longest())
    sampling = {"instructions": {"max_tokens": 10}, "input_first": {"max_tokens": 4000}}
    requests = longest(generator={"sampling": sampling})
    with pytest.raises(EngineError, match=r"sampling\.input_first\.max_tokens"):
        check_context(folder(n_positions=4096), requests)
    with pytest.raises(EngineError, match="context of 700"):
        check_context(folder(max_position_embeddings=4096), longest(), context=700)
    check_context(folder(text_config={"max_position_embeddings": 4096}), longest())
    check_context(folder(), longest())  # it names none


def test_a_build_of_such_a_model_is_refused(folder, tmp_path):
    folder(max_position_embeddings=512)
    with pytest.raises(EngineError, match="context of 512"):
        registry.check("transformers", str(tmp_path), {}, longest())


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_tokens_are_counted_where_the_tokenizer_is_at_hand(style):
    path = bundled.resolve("smollm2-135m-instruct")
    requests = longest(generator={"prompt_style": style})
    with pytest.raises(EngineError) as caught:
        check_context(folder=Path(path), requests=requests, context=1)
    said = int(str(caught.value).split(" tokens")[0].split()[-1])
    from transformers import AutoTokenizer

    prompt = requests[0].prompt
    tokenizer = AutoTokenizer.from_pretrained(path)
    if style == "completion":
        assert said == len(tokenizer(prompt)["input_ids"])
    else:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        real = len(tokenizer(text)["input_ids"])
        assert real - 40 < said < real + 40


def test_parameters_are_counted_without_loading_them():
    config = AutoConfig.from_pretrained(bundled.resolve("smollm2-135m-instruct"))
    assert count_parameters(config) == 134_515_008
    config = AutoConfig.for_model(
        "llama",
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    assert count_parameters(config) == 70_553_706_496  # Llama 3 70B


def test_weights_that_exceed_the_gpu_are_refused_with_the_estimate():
    gib = 1 << 30
    check_weights("big", 70_000_000_000, torch.bfloat16, have=131 * gib)
    with pytest.raises(EngineError) as caught:
        check_weights("big", 70_000_000_000, torch.bfloat16, have=76 * gib)
    assert str(caught.value).startswith(
        "big has 70.00 billion parameters, which in bfloat16 take 130.4 GiB, and the GPU has "
        "76.0 GiB to give: spread it over more GPUs"
    )


def test_a_model_over_several_gpus_is_placed_by_accelerate_if_their_memory_together_has_room(
    monkeypatch,
):
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]  # there are none: it lands on the CPU
    monkeypatch.setattr(loading, "_gpus", lambda place: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (150 << 20, 1 << 40))
    placed, original = [], AutoModelForCausalLM.from_pretrained

    def from_pretrained(*arguments, **options):
        placed.append(options.get("device_map"))
        return original(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    loading.load("smollm2-135m-instruct", device="cpu", dtype="bfloat16")  # of 257 MiB
    assert placed == ["auto"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (100 << 20, 1 << 40))
    with pytest.raises(EngineError, match=r"the GPU has 0\.2 GiB"):
        loading.load("smollm2-135m-instruct", device="cpu", dtype="bfloat16")
