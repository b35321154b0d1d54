"""Prompts that do not fit into a model's context are refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_si.config.file import parse_config
from ray_si.engines import bundled, registry
from ray_si.engines.context import check_context
from ray_si.errors import EngineError
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.run.seeds import load_seeds


def longest(**values):
    return longest_requests(parse_config(values), load_seeds("bundled")[0])


@pytest.fixture
def folder(tmp_path):
    def write(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


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
