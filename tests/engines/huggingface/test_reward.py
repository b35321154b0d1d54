"""Rewards are what transformers' own sequence classification gives, in batches too."""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from ray_si.engines import bundled, registry
from ray_si.engines.base import Request, SamplingParams
from ray_si.errors import EngineError

PAIRS = [("Say hello.", "Hello!"), ("Count to five.", "One, two, three, four, five."), ("Go.", "")]


def made(folder, labels=1, template=True, encoder=False):
    """A tiny reward model with random weights and the bundled model's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(bundled.resolve("smollm2-135m-instruct"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": len(tokenizer), "num_labels": labels}
    if encoder:
        model = BertForSequenceClassification(BertConfig(**sizes))
    else:
        config = LlamaConfig(**sizes, pad_token_id=tokenizer.pad_token_id)
        model = LlamaForSequenceClassification(config)
    model.eval().save_pretrained(folder)
    if not template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


def requests():
    return [
        Request(
            [{"role": "user", "content": given}, {"role": "assistant", "content": answer}],
            SamplingParams(max_tokens=1),
            0,
            "classification",
        )
        for given, answer in PAIRS
    ]


def rewards(engine):
    async def together():
        return await asyncio.gather(*map(engine.generate, requests()))

    return [done.reward for done in asyncio.run(together())]


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("template", [False, True])
def test_a_reward_is_the_scalar_of_the_conversation(tmp_path, template, encoder):
    folder = made(tmp_path, template=template, encoder=encoder)
    registry.check("reward", folder, {})
    engine = registry.create("reward", folder, {"dtype": "float32"})
    tokenizer, model = engine._lm.tokenizer, engine._model
    expected = []
    for request, (given, answer) in zip(requests(), PAIRS, strict=True):
        if template:
            text = tokenizer.apply_chat_template(request.prompt, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(given, answer)["input_ids"]
        with torch.inference_mode():
            expected.append(float(model(torch.tensor([ids])).logits[0, 0]))
    assert rewards(engine) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 3


def test_a_batch_that_does_not_fit_into_memory_is_rated_in_parts(tmp_path, monkeypatch):
    engine = registry.create("reward", made(tmp_path), {"dtype": "float32"})
    expected, original, sizes = rewards(engine), engine._model.forward, []

    def forward(input_ids, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("out of memory")  # as a GPU would have it
        output = original(input_ids, **rest)
        assert output.past_key_values is None  # which would be kept for nothing
        return output

    monkeypatch.setattr(engine._model, "forward", forward)
    assert rewards(engine) == pytest.approx(expected, abs=1e-4)
    assert sizes == [3, 1, 2, 1, 1]


def test_a_model_without_a_scalar_head_is_refused_before_it_is_loaded(tmp_path):
    folder = made(tmp_path / "three", labels=3)
    with pytest.raises(EngineError, match=r"has no scalar head.* with 3 labels"):
        registry.check("reward", folder, {})
    with pytest.raises(EngineError, match="has no scalar head"):
        registry.check("reward", "smollm2-135m-instruct", {})
