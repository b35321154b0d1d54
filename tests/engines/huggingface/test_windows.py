"""The transformers engine on a model some of whose layers see the last few tokens only."""

from __future__ import annotations

import asyncio

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.huggingface.engine import TransformersEngine
from ray_si.engines.huggingface.loading import LanguageModel

WORDS = ["[PAD]", *(f"w{i}" for i in range(63))]
PREFIX = " ".join(f"w{i * i % 63}" for i in range(40))
"""Longer than the window, and than what is shared at least."""

GREEDY = SamplingParams(max_tokens=6, temperature=0)


@pytest.fixture(scope="module")
def engine():
    """A tiny Gemma 3 with random weights, large enough that every token counts."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    model = Gemma3ForCausalLM(config).eval()
    return TransformersEngine(
        LanguageModel(model, tokenizer, torch.device("cpu"), frozenset(), 512)
    )


@pytest.mark.parametrize("labels", [(), ("w1", "w2 w3")], ids=["written", "scored"])
def test_requests_that_begin_alike_get_what_each_gets_alone(engine, labels):
    requests = [
        Request(f"{PREFIX} {' '.join(WORDS[1 : 2 + k])}", GREEDY, 0, "answer", labels)
        for k in range(3)
    ]

    async def ask(*asked):
        return await asyncio.wait_for(asyncio.gather(*map(engine.generate, asked)), 120)

    together = asyncio.run(ask(*requests))
    for request, done in zip(requests, together, strict=True):
        (alone,) = asyncio.run(ask(request))
        assert done.text == alone.text
        assert done.mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-3)
        assert done.label_logprobs == pytest.approx(alone.label_logprobs, abs=1e-3)
