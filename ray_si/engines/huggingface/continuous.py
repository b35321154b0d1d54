"""Text through transformers' own continuous batching, with a paged cache of keys and values."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from ray_si.engines.base import Completion, Request, too_long
from ray_si.engines.huggingface.continuous_sampling import ContinuousSampler, Draw, logprob
from ray_si.engines.huggingface.loading import LanguageModel
from ray_si.engines.huggingface.sampling import cut_at_stop, tail_length, uniforms
from ray_si.engines.waiting import Waiting
from ray_si.errors import EngineError

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.8
"""Of the GPU's free memory, for the cache: what the library takes where logits are processed."""

_ON_CPU = {"page_size": 32, "max_batch_tokens": 512, "auto_switch_to_flash": False}
"""Without a GPU's memory to size them by. A step's attention mask is as long as the cache."""


class _Running(Waiting):
    """A request, or one of its labels: then these tokens are scored."""

    def __init__(self, request: Request, prompt: list[int], label: tuple[int, ...] = ()) -> None:
        super().__init__(request, prompt)
        self.label = label
        self.slot = -1
        self.done = False
        self.stop = () if label else request.sampling.stop
        self.tail = tail_length(self.stop)


class ContinuousEngine:
    """Requests join the running batch, and leave it, whenever they come and end.

    ``max_batch`` of them are written at a time. Their keys and values lie in pages, and prompts
    share the full pages of what they have in common. On a GPU the pages fill `_MEMORY_SHARE` of its
    free memory, times ``gpu_share``, and what runs out of pages is computed again later; elsewhere
    they hold ``batch_tokens``.

    Every request draws with its own parameters and seed, and the same numbers as in
    `TransformersEngine`: the two write the same text as far as their arithmetic agrees. Logits vary
    in their last bits with a batch's neighbours, which depend on time, and so may a text; a resumed
    run is exact because stored blocks are never written again.

    Nobody else may compute with the model meanwhile: the library changes the model's configuration
    for the time of a step. An error inside the manager, out of memory included, ends it for good:
    what it was asked fails, and `check_health` says so, since Serve replaces the replica then.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        max_batch: int = 32,
        batch_tokens: int = 32768,
        gpu_share: float = 1.0,
    ) -> None:
        self._lm = language_model
        model, device = language_model.model, language_model.device
        self.slots = max_batch
        self.capacity = 2 * max_batch  # the next are there when one is done
        options: dict[str, Any] = {}
        if device.type != "cuda":
            options = _ON_CPU | {"num_blocks": -(-batch_tokens // _ON_CPU["page_size"])}
        config = ContinuousBatchingConfig(
            max_requests_per_batch=max_batch,
            max_memory_percent=_MEMORY_SHARE * gpu_share,
            return_logprobs=True,
            **options,
        )
        self._sampler = ContinuousSampler(
            self.capacity,
            model.config.get_text_config().vocab_size,
            min(language_model.end, default=None),
            device,
        )
        ends = GenerationConfig(do_sample=False, eos_token_id=sorted(language_model.end) or -1)
        attention = model.config._attn_implementation
        try:
            self._manager: Any = model.init_continuous_batching(ends, config)
            self._manager.logit_processor = self._sampler
            self._manager.warmup()  # makes the cache, in this thread, where errors can be seen
        except (MemoryError, RuntimeError, ValueError, LookupError, ImportError, OSError) as error:
            model.set_attn_implementation(attention)
            raise EngineError(
                f"continuous batching cannot start ({type(error).__name__}: {error}); "
                "generator.batching: static does without"
            ) from error
        made = self._manager.continuous_batching_config
        self._context = min(language_model.context, made.num_blocks * made.page_size)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._free = list(range(self.capacity))
        self._running: dict[str, _Running] = {}
        self._queue: deque[_Running] = deque()
        self._broken: str | None = None
        started = threading.Event()
        self._reader = threading.Thread(
            target=self._read, args=(started,), name="continuous-engine", daemon=True
        )
        self._reader.start()
        started.wait()

    def check_health(self) -> None:
        """Raises EngineError where this process can answer nothing any more; see `Engine`."""
        if self._broken or not self._reader.is_alive():
            raise EngineError(self._broken or "the thread that reads answers has died")

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`. Raises RuntimeError where the manager has failed."""
        prompt = self._lm.encode(request)
        if refusal := too_long(len(prompt), request.sampling, self._context):
            return refusal
        if request.labels:
            return await self._score(request, prompt)
        return await self._answer(_Running(request, prompt))

    async def _score(self, request: Request, prompt: list[int]) -> Completion:
        """Log-probability of each label: its tokens are forced, and their own summed."""
        first, *others = [
            _Running(request, prompt, tuple(self._lm.label(label))) for label in request.labels
        ]
        answers = [await self._answer(first)]  # the others find the prompt's pages in the cache
        answers += await asyncio.gather(*map(self._answer, others))
        scores = tuple(score for answer in answers for score in answer.label_logprobs or ())
        best = request.labels[scores.index(max(scores))]
        return Completion(best, "stop", prompt_tokens=len(prompt), label_logprobs=scores)

    def close(self) -> None:
        """End the manager; what it has not answered fails."""
        self._manager.stop(hard_stop=True)
        self._reader.join()

    async def _answer(self, running: _Running) -> Completion:
        with self._lock:
            if self._broken:
                raise RuntimeError(self._broken)
            self._queue.append(running)
            self._admit()
        try:
            return await running.answer
        except asyncio.CancelledError:
            with self._lock:
                self._end(running)
            raise

    def _admit(self) -> None:
        """Hand those who wait to the manager while there are slots; the lock is held."""
        while self._queue and self._free:
            running = self._queue.popleft()
            if running.done:
                continue
            running.slot = self._free.pop()
            self._sampler.begin(running.slot)
            number = str(next(self._numbers))
            self._running[number] = running
            request = running.request
            self._manager.add_request(
                running.prompt,
                request_id=number,
                max_new_tokens=len(running.label) or request.sampling.max_tokens,
                streaming=bool(running.stop),
                eos_token_id=-1 if running.label else None,
                draw=Draw(
                    request.sampling,
                    len(running.prompt),
                    running.slot,
                    uniforms(request.seed, request.sampling.max_tokens).tolist(),
                    running.label,
                ),
            )

    def _end(self, running: _Running) -> None:
        """Nobody wants more of it; the lock is held.

        The manager's own cancellation frees pages that a step in flight may still note as complete,
        a KeyError that ends it (transformers 5.23, asynchronous batching).
        """
        running.done = True
        if running.slot >= 0:
            self._sampler.end(running.slot)

    # The reader's thread ---------------------------------------------------------------------

    def _read(self, started: threading.Event) -> None:
        self._manager.start()  # from here, since its thread is a daemon's if this one is
        started.set()
        while True:
            output = self._manager.get_result(timeout=0.1)
            if output is not None:
                self._receive(output)
            elif not self._manager.is_running():
                break
        fatal = self._manager.background_thread_status.fatal_error
        with self._lock:
            self._broken = f"continuous batching has failed: {fatal}" if fatal else "closed"
            lost = [*self._running.values(), *self._queue]
            self._running.clear()
            self._queue.clear()
        for running in lost:
            running.fail(RuntimeError(self._broken))

    def _receive(self, output: Any) -> None:
        running = self._running[output.request_id]
        if not running.done:
            try:
                if completion := self._completion(running, output):
                    running.done = True
                    running.resolve(completion)
            except Exception as error:  # noqa: BLE001 - handed on; this thread has to live
                running.done = True
                running.fail(error)
        with self._lock:
            if output.is_finished():
                del self._running[output.request_id]
                self._free.append(running.slot)
                running.slot = -1
                self._admit()
            elif running.done:
                self._end(running)

    def _completion(self, running: _Running, output: Any) -> Completion | None:
        """The answer, if it is there: all tokens are, or a stop string."""
        if output.error:
            raise RuntimeError(output.error)
        finished = output.is_finished()
        if not finished:
            tail = self._lm.tokenizer.decode(output.generated_tokens[-running.tail :])
            if not cut_at_stop(tail, running.stop)[1]:
                return None
        logprobs = [logprob(told) for told in output.logprobs]
        if running.label:
            score = sum(logprobs)
            return Completion("", "length", label_logprobs=(score,))
        completion = self._lm.completion(
            len(running.prompt), output.generated_tokens, logprobs, running.request.sampling
        )
        return completion if finished or completion.finish_reason == "stop" else None
