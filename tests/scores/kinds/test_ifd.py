"""IFD is the ratio of two perplexities, as transformers has them."""

from __future__ import annotations

import asyncio

import pytest
import torch

from ray_si.config.scores import scores_of
from ray_si.engines.base import Completion
from ray_si.engines.huggingface.engine import TransformersEngine
from ray_si.engines.huggingface.loading import load
from ray_si.errors import ConfigError
from ray_si.scores.kinds.ifd import Ifd

ROWS = [
    {"id": "0", "instruction": "Name the capital of France.", "input": "", "output": "Paris."},
    {
        "id": "1",
        "instruction": "Repeat the text.",
        "input": "a blue cat sat",
        "output": "a blue cat sat",
    },
    {
        "id": "2",
        "instruction": "What is two plus two?",
        "input": "",
        "output": "The river is long and old.",
    },
]


def ifd(**settings):
    return Ifd(scores_of({"ifd": settings})["ifd"])


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(load("smollm2-135m-instruct", dtype="float32", threads=2))


def perplexity(engine, prompt, output):
    """Of an output after the tokens of a prompt, with no batch, padding or cache."""
    tokens = engine._lm.tokenizer(output, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.inference_mode():
        logprobs = engine._model(ids).logits[0].log_softmax(-1)
    picked = [logprobs[len(prompt) + k - 1, token] for k, token in enumerate(tokens)]
    return float(torch.exp(-torch.stack(picked).mean()))


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_it_is_the_perplexity_with_the_instruction_over_that_without(engine, style):
    scorer = ifd(generator={"prompt_style": style})
    tokenizer = engine._lm.tokenizer

    async def all_at_once():
        return await asyncio.gather(*(scorer.score(row, engine.generate) for row in ROWS))

    def tokens(text):
        if style == "chat":
            turns = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer(f"{text}\n\n")["input_ids"] if text else [engine._lm.first]

    scored = asyncio.run(all_at_once())
    for row, (value, reason, _) in zip(ROWS, scored, strict=True):
        given = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        with_it = perplexity(engine, tokens(given), row["output"])
        without = perplexity(engine, tokens(""), row["output"])
        assert reason is None
        assert value == pytest.approx(with_it / without, rel=1e-3)
    assert scored[1].value < scored[2].value  # repeating is easy once one knows what


def test_an_empty_output_or_an_engine_that_knows_no_texts_leaves_a_row_unscored():
    async def ask(request):
        return Completion("", "stop", label_logprobs=(-1.0,))

    assert asyncio.run(ifd().score(ROWS[0], ask)).reason == "no_logprobs"


def test_engines_without_log_probabilities_of_texts_are_refused():
    with pytest.raises(ConfigError, match="openai engine gives no log-probabilities of whole"):
        ifd(generator={"engine": "openai", "model": "x"})
