"""Text from any causal language model that transformers can load."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ray_si.engines.base import Completion, EngineDiedError, Request, too_long
from ray_si.engines.huggingface.loading import LanguageModel, load
from ray_si.engines.huggingface.sampling import RowSampler, RowStopper
from ray_si.engines.stall import StallWatch
from ray_si.engines.waiting import Waiting

_MIN_PREFIX = 32
"""Tokens that prompts must share before their keys and values are worth sharing."""

_SCORED_SHARE = 8
"""Of a batch's tokens one in so many may be scored, where each needs the whole vocabulary."""

_SAME_PREFIX = 64
"""Tokens by which prompts are told apart that share a longer beginning, such as demonstrations."""

logger = logging.getLogger(__name__)


def create(
    model: str,
    *,
    max_batch: int = 32,
    batch_tokens: int = 32768,
    stall_s: float | None = None,
    **loading: Any,
) -> TransformersEngine:
    """Load a model (see `load`) and its engine."""
    return TransformersEngine(
        load(model, **loading), max_batch=max_batch, batch_tokens=batch_tokens, stall_s=stall_s
    )


class TransformersEngine:
    """Batches requests as they arrive and answers them on one worker thread.

    A batch holds requests of one kind (writing, or scoring labels), at most ``max_batch`` of them
    and at most ``batch_tokens`` prompt and completion tokens, padding included. Prompts are padded
    on the left; a prefix that all of a batch share is computed once, unless the model's cache
    forgets (sliding windows) or sums up. Every row samples with its own parameters and seed.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        max_batch: int = 32,
        batch_tokens: int = 32768,
        stall_s: float | None = None,
    ) -> None:
        self._lm = language_model
        self._model, self._device = language_model.model, language_model.device
        self._batch_tokens = batch_tokens
        self.slots = max_batch
        self.capacity = 2 * max_batch  # a batch is chosen from what waits while another is written
        self._broken: str | None = None
        self._stall = StallWatch(stall_s)
        self._batches = 0
        self._sampler: RowSampler | None = None  # of the batch that is written, if one is
        self._is_busy = False
        self._shares_prefixes = _keeps_everything(self._model.config)
        self._prefix: tuple[list[int], DynamicCache] | None = None
        self._arrivals: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="transformers-engine", daemon=True)
        self._worker.start()

    def check_health(self) -> None:
        """Raises EngineDiedError where this process can answer nothing any more; see `Engine`."""
        self._check_alive()
        self._stall.look(self.mark(), is_busy=self._is_busy)

    def _check_alive(self) -> None:
        if self._broken or not self._worker.is_alive():
            raise EngineDiedError(self._broken or "the thread that answers requests has died")

    def mark(self) -> tuple[int, int]:
        """Batches, and tokens of the one that is being written; see `Engine`."""
        sampler = self._sampler  # which another thread sets
        return self._batches, len(sampler.logprobs) if sampler else 0

    def close(self) -> None:
        """Nothing to end: the thread goes with the process."""

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`. Raises what torch raises (out of memory, say)."""
        self._check_alive()
        prompt = self._lm.encode(request)
        labels = [self._lm.label(label) for label in request.labels]
        if labels and not prompt:
            prompt = [self._lm.first]  # so that there is something that a label's first follows
        sampling = request.sampling
        if labels:
            sampling = replace(sampling, max_tokens=max(map(len, labels)))
        if refusal := too_long(len(prompt), sampling, self._lm.context):
            return refusal
        waiting = Waiting(request, prompt, labels)
        self._arrivals.put(waiting)
        return await waiting.answer

    # The worker thread -----------------------------------------------------------------------

    def _work(self) -> None:
        pending: list[Waiting] = []
        while True:
            if not pending:
                pending.append(self._arrivals.get())
            try:
                while True:  # a burst of requests is one batch, so wait a moment for its rest
                    pending.append(self._arrivals.get(timeout=0.02))
            except queue.Empty:
                pass
            batch, pending = self._next_batch(pending)
            self._batches += 1
            self._is_busy = True
            try:
                with torch.inference_mode():
                    answers = self._answer(batch)
            except Exception as error:  # noqa: BLE001 - handed on; this thread has to live
                if "CUDA error" in str(error):  # none of its kernels runs again in this process
                    self._broken = str(error)
                for waiting in batch:
                    waiting.fail(EngineDiedError(self._broken) if self._broken else error)
                continue
            finally:
                self._is_busy, self._sampler = False, None
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.resolve(answer)

    def _answer(self, batch: list[Waiting]) -> list[Completion]:
        """Answer a batch; in halves where it does not fit into memory."""
        try:
            return (self._score if batch[0].request.labels else self._write)(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        logger.warning("%d requests at once do not fit into memory: lower max_batch", len(batch))
        self._prefix = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        return self._answer(batch[:middle]) + self._answer(batch[middle:])

    def _next_batch(self, pending: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
        """The oldest request and those that fit with it; the rest stay in order.

        Where at least half a batch of them begins alike, none that begins otherwise is among them:
        what they share is computed once.
        """
        oldest = pending[0]
        kind = (oldest.request.purpose, bool(oldest.labels))
        may = {id(w) for w in pending if (w.request.purpose, bool(w.labels)) == kind}
        begin = oldest.prompt[:_SAME_PREFIX]
        alike = {id(w) for w in pending if id(w) in may and w.prompt[:_SAME_PREFIX] == begin}
        if 2 * len(alike) >= min(self.slots, len(may)):
            may = alike
        batch: list[Waiting] = []
        rest: list[Waiting] = []
        widest = longest = 0
        for waiting in pending:
            size = len(batch) + 1
            width, label = max(widest, waiting.tokens), max(longest, waiting.longest_label)
            fits = size <= self.slots and size * width <= self._batch_tokens
            fits = fits and size * label <= self._batch_tokens // _SCORED_SHARE
            if id(waiting) in may and (fits or not batch):
                batch.append(waiting)
                widest, longest = width, label
            else:
                rest.append(waiting)
        return batch, rest

    @staticmethod
    def _shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
        """The longest common prefix of prompts, at least one token short of every one."""
        first, last = min(prompts), max(prompts)
        limit = min(map(len, prompts)) - 1
        return first[: next((i for i in range(limit) if first[i] != last[i]), limit)]

    def _prepare(
        self, rows: Sequence[list[int]], prefix: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, Any, int]:
        """Ids and mask of shape (n, width), a cache that holds the shared prefix (or None), and
        the prefix's length. Padding stands between the prefix and each row's own part."""
        kept = self._prefix[0] if self._prefix else []
        is_most = len(rows) == 1 or 2 * len(kept) >= len(prefix)
        if kept and is_most and prefix[: len(kept)] == kept:
            prefix = kept
        elif self._shares_prefixes and len(rows) > 1 and len(prefix) >= _MIN_PREFIX:
            cache = self._model(
                torch.tensor([prefix], device=self._device), use_cache=True, logits_to_keep=1
            ).past_key_values
            self._prefix = (prefix, cache)
        else:
            prefix = []
        shared = len(prefix)
        width = max(map(len, rows))
        pad = self._lm.tokenizer.pad_token_id
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            own = row[shared:]
            ids[i, :shared] = torch.tensor(prefix, dtype=torch.long)
            ids[i, width - len(own) :] = torch.tensor(own)
            mask[i, :shared] = 1
            mask[i, width - len(own) :] = 1
        cache = None
        if shared:
            assert self._prefix is not None
            cache = DynamicCache(config=self._model.config)
            for layer, kept in enumerate(self._prefix[1].layers):
                cache.update(
                    kept.keys.expand(len(rows), -1, -1, -1),
                    kept.values.expand(len(rows), -1, -1, -1),
                    layer,
                )
        return ids.to(self._device), mask.to(self._device), cache, shared

    def _write(self, batch: Sequence[Waiting]) -> list[Completion]:
        sampling = [waiting.request.sampling for waiting in batch]
        prompts = [waiting.prompt for waiting in batch]
        ids, mask, cache, _ = self._prepare(prompts, self._shared_prefix(prompts))
        width = ids.shape[1]
        sampler = RowSampler(sampling, [waiting.request.seed for waiting in batch], width)
        self._sampler = sampler
        written = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            logits_processor=[sampler],
            stopping_criteria=[RowStopper(self._lm.tokenizer, sampling, width)],
            max_new_tokens=max(params.max_tokens for params in sampling),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._lm.tokenizer.pad_token_id,
        )[:, width:]
        logprobs = torch.stack(sampler.logprobs, dim=1)
        return [
            self._lm.completion(waiting.request, len(waiting.prompt), row.tolist(), values.tolist())
            for waiting, row, values in zip(batch, written, logprobs, strict=True)
        ]

    def _score(self, batch: Sequence[Waiting]) -> list[Completion]:
        """Log-probability of each label after its prompt, in one forward pass.

        Labels that differ in their last token only share a row, so that Yes and No need one.
        """
        contexts = [
            [tuple(waiting.prompt + label[:-1]) for label in waiting.labels] for waiting in batch
        ]
        row_of = {row: i for i, row in enumerate(dict.fromkeys(chain.from_iterable(contexts)))}
        prefix = self._shared_prefix([waiting.prompt for waiting in batch])
        ids, mask, cache, shared = self._prepare([list(row) for row in row_of], prefix)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = self._model(
            input_ids=ids[:, shared:],
            attention_mask=mask,
            position_ids=positions[:, shared:],
            past_key_values=cache,
            logits_to_keep=max(waiting.longest_label for waiting in batch),
        ).logits
        answers = []
        for waiting, own_contexts in zip(batch, contexts, strict=True):
            scores = []
            for label, context in zip(waiting.labels, own_contexts, strict=True):
                own = logits[row_of[context], -len(label) :].float()
                logprobs = own[range(len(label)), label] - own.logsumexp(-1)
                scores.append(float(logprobs.sum()))
            best = waiting.request.labels[scores.index(max(scores))]
            answers.append(
                Completion(
                    best,
                    "stop",
                    prompt_tokens=len(waiting.prompt),
                    label_logprobs=tuple(scores),
                    label_tokens=tuple(map(len, waiting.labels)),
                )
            )
        return answers


def _keeps_everything(config: Any) -> bool:
    """Whether each layer of a model's cache has keys and values of all tokens."""
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
