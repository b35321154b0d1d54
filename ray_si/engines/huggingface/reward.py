"""Rewards from any sequence-classification model of transformers with a scalar head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from ray_si.engines import registry
from ray_si.engines.base import Completion, Request, too_long
from ray_si.engines.huggingface.engine import TransformersEngine
from ray_si.engines.huggingface.loading import load
from ray_si.engines.waiting import Waiting
from ray_si.errors import EngineError


def create(
    model: str,
    *,
    max_batch: int = 32,
    batch_tokens: int = 32768,
    stall_s: float | None = None,
    **loading: Any,
) -> RewardEngine:
    """Load a reward model (see `load`) and its engine; EngineError where it has no scalar head."""
    loaded = load(model, kind=AutoModelForSequenceClassification, **loading)
    registry.check_reward_model(model, loaded.model.config.to_dict())
    loaded.model.config.get_text_config().use_cache = False  # no token comes after these
    return RewardEngine(loaded, max_batch=max_batch, batch_tokens=batch_tokens, stall_s=stall_s)


class RewardEngine(TransformersEngine):
    """Gives a number to each conversation, in batches.

    A prompt is a list of turns, the assistant's last. It goes through the model's own chat
    template; where there is none, the turns before the last and the last are a pair of texts.
    """

    async def generate(self, request: Request) -> Completion:
        """The reward of a conversation; see `Engine`."""
        if isinstance(request.prompt, str) or request.labels:
            raise EngineError("a reward model writes nothing and scores no labels")
        tokens = self._encoded(request.prompt)
        if refusal := too_long(len(tokens), request.sampling, self._lm.context):
            return refusal
        waiting = Waiting(request, tokens)
        self._arrivals.put(waiting)
        return await waiting.answer

    def _encoded(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        tokenizer = self._lm.tokenizer
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                turns, tokenize=False, **self._lm.template_arguments
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        before = "\n\n".join(turn["content"] for turn in turns[:-1])
        return list(tokenizer(before, turns[-1]["content"])["input_ids"])

    def _write(self, batch: Sequence[Waiting]) -> list[Completion]:
        # on the right, as classifiers of either kind expect it
        width = max(len(waiting.prompt) for waiting in batch)
        pad = self._lm.tokenizer.pad_token_id
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, waiting in enumerate(batch):
            ids[row, : len(waiting.prompt)] = torch.tensor(waiting.prompt)
            mask[row, : len(waiting.prompt)] = 1
        device = self._device
        logits = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return [
            Completion("", "stop", prompt_tokens=len(waiting.prompt), reward=float(reward))
            for waiting, reward in zip(batch, logits[:, 0].float().tolist(), strict=True)
        ]
