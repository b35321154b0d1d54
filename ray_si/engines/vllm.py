"""Text from a model that vLLM runs: continuous batching, paged attention, cached prefixes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoTokenizer
from vllm import AsyncEngineArgs, SamplingParams as VLLMSampling
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from ray_si.engines import chat_template, models, orphans, remote
from ray_si.engines.adapters import room_for
from ray_si.engines.base import Completion, EngineDiedError, Request, SamplingParams, too_long
from ray_si.engines.huggingface.sampling import cut_at_stop
from ray_si.engines.stall import StallWatch
from ray_si.errors import EngineError

logger = logging.getLogger(__name__)

_TAIL = 1 << 18
"""Bytes at the end of an output in which the engine's last error is looked for."""

_ERROR = re.compile(r"\b(\w+(?:Error|Exception): .*\S)")

_WORDS_S = 3.0
"""Seconds within which processes that end write why."""

_NO_REASON = re.compile("EngineDeadError|EngineCore encountered|initialization failed")
"""Errors that only tell of another, higher up."""


class VLLMEngine:
    """One vLLM engine in this process, and its workers in others.

    A model over several GPUs is run by Ray's workers, in the placement group of the replica. Every
    request samples with its own seed; labels are scored exactly, token by token, over the cached
    prompt. ``slots`` is vLLM's ``max_num_seqs``, its own choice where ``max_batch`` is None.

    Processes of engines of ours whose replicas are gone are ended first, since they may hold the
    GPU. An engine with work that takes no step for ``stall_s`` seconds counts as hung.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        max_batch: int | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        stall_s: float | None = None,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        enable_prefix_caching: bool = True,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        quantization: str | None = None,
        lora: str | None = None,
        engine_kwargs: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._template_arguments = chat_template_kwargs or {}
        streamed = str((engine_kwargs or {}).get("load_format", "")).startswith("runai")
        path = model if streamed else models.resolve(model)
        if lora and remote.is_remote(lora):
            lora = remote.local_copy(lora)
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        gpus = tensor_parallel_size * pipeline_parallel_size
        if gpus == 1 and current_platform.is_cuda() and not torch.cuda.device_count():
            raise EngineError("this vLLM needs a GPU: set generator.gpus to 1")
        orphans.reap()
        try:
            made = engine_args(
                path,
                max_batch=max_batch,
                lora=lora,
                engine_kwargs=engine_kwargs or {},
                served_model_name=model,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel_size,
                pipeline_parallel_size=pipeline_parallel_size,
                enable_prefix_caching=enable_prefix_caching,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                quantization=quantization,
                **source,
            )
            tokenizer = path if not streamed else str(remote.glance(model))
            self._tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer, **source)
            self._around_thoughts = chat_template.around_thoughts(self._tokenizer)
            self._pulse = _Pulse()
            self._engine = orphans.started_by(
                lambda: AsyncLLM.from_engine_args(
                    made, stat_loggers=[lambda config, number=0: self._pulse]
                )
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise EngineError(f"vLLM could not start {model}: {_reason(error)}") from error
        self._context: int = self._engine.model_config.max_model_len
        self._lora = LoRARequest("adapter", 1, lora) if lora else None
        self._numbers = itertools.count()
        self._running = 0
        self._stall = StallWatch(stall_s)
        self.slots: int = self._engine.vllm_config.scheduler_config.max_num_seqs
        self.capacity = 2 * self.slots  # so that the next is there when one is done

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`."""
        prompt = self._encode(request)
        if refusal := too_long(len(prompt), request.sampling, self._context):
            return refusal
        if request.labels:
            return await self._score(prompt, request.labels)
        output = await self._run(prompt, sampling_of(request.sampling, request.seed))
        written = output.outputs[0]
        count = len(written.token_ids)
        if written.finish_reason not in ("stop", "length"):
            return Completion("", "error", error=f"vLLM ended it with {written.finish_reason}")
        return Completion(
            self._text(written, request),
            written.finish_reason,
            prompt_tokens=len(prompt),
            completion_tokens=count,
            mean_logprob=written.cumulative_logprob / count if count else None,
        )

    def _text(self, written: Any, request: Request) -> str:
        """vLLM's text; its tokens' own where special ones tell a thought from the answer.

        It begins with the tag of a thought that the prompt opens.
        """
        text = str(written.text)
        if not self._around_thoughts.isdisjoint(written.token_ids):
            text = chat_template.decode(self._tokenizer, written.token_ids)
            text = cut_at_stop(text, request.sampling.stop)[0]
        arguments = self._template_arguments
        return chat_template.with_opening(self._tokenizer, request, arguments, text)

    def check_health(self) -> None:
        """Raise where the workers are dead, and no request has noticed yet, or hang."""
        if self._engine.errored:
            raise EngineDiedError(_last_words())
        self._stall.look(self.mark(), is_busy=self._running > 0)

    def mark(self) -> int:
        """Steps of its scheduler; see `Engine`."""
        return self._pulse.steps

    def close(self) -> None:
        """End the engine's workers."""
        self._engine.shutdown()

    async def _score(self, prompt: list[int], labels: Sequence[str]) -> Completion:
        """Log-probability of each label after the prompt: its tokens', one after the other."""
        tokens = [self._tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        wanted: dict[tuple[int, ...], set[int]] = {}
        for label in tokens:
            for place, token in enumerate(label):
                wanted.setdefault(tuple(label[:place]), set()).add(token)
        found: dict[tuple[int, ...], float] = {}
        for before, nexts in wanted.items():  # Yes and No are one step
            params = VLLMSampling(
                max_tokens=1,
                temperature=0,
                logprob_token_ids=sorted(nexts),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            output = await self._run([*prompt, *before], params)
            step = output.outputs[0].logprobs[0]
            found |= {(*before, token): step[token].logprob for token in nexts}
        scores = tuple(
            sum(found[tuple(label[: place + 1])] for place in range(len(label))) for label in tokens
        )
        best = labels[scores.index(max(scores))]
        return Completion(best, "stop", prompt_tokens=len(prompt), label_logprobs=scores)

    async def _run(self, prompt: list[int], params: VLLMSampling) -> Any:
        outputs = self._engine.generate(
            {"prompt_token_ids": prompt},
            params,
            request_id=str(next(self._numbers)),
            lora_request=self._lora,
        )
        self._running += 1
        try:
            return [output async for output in outputs][-1]
        except EngineDeadError as error:
            raise EngineDiedError(await asyncio.to_thread(_last_words)) from error
        finally:
            self._running -= 1

    def _encode(self, request: Request) -> list[int]:
        return chat_template.encode(self._tokenizer, request, self._template_arguments)


class _Pulse(StatLoggerBase):  # type: ignore[misc]
    """Counts the steps of an engine, which vLLM tells it of."""

    def __init__(self) -> None:
        self.steps = 0

    def record(self, *_: Any, **__: Any) -> None:
        self.steps += 1

    def log_engine_initialized(self) -> None:
        """Says nothing."""


def engine_args(
    path: str,
    *,
    max_batch: int | None = None,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    lora: str | None = None,
    engine_kwargs: dict[str, Any] | None = None,
    **named: Any,
) -> AsyncEngineArgs:
    """vLLM's own arguments; ``named`` ones are called as vLLM calls them.

    ``engine_kwargs`` come last and win. On a processor prompts are not prefilled in parts unless
    they say so: vLLM then rewinds the generators of seeded requests, which a processor's have no
    means for, and dies. Raises EngineError where ``lora`` is no adapter, and what vLLM raises where
    it knows no such argument.
    """
    gpus = tensor_parallel_size * pipeline_parallel_size
    arguments = {
        "model": path,
        "max_num_seqs": max_batch,
        "tensor_parallel_size": tensor_parallel_size,
        "pipeline_parallel_size": pipeline_parallel_size,
        "distributed_executor_backend": "ray" if gpus > 1 else None,
        **named,
    }
    if lora:
        arguments |= {"enable_lora": True, "max_lora_rank": room_for(lora)}
    arguments |= engine_kwargs or {}
    made = AsyncEngineArgs(**arguments, enable_log_requests=False)
    if current_platform.is_cpu() and made.enable_chunked_prefill is None:
        made.enable_chunked_prefill = False
        if made.max_num_batched_tokens is None:
            made.max_num_batched_tokens = made.create_model_config().max_model_len
    return made


def sampling_of(params: SamplingParams, seed: int) -> VLLMSampling:
    """A request's sampling parameters as vLLM has them."""
    return VLLMSampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        presence_penalty=params.presence_penalty,
        stop=list(params.stop),
        seed=seed,
        logprobs=0,  # of the tokens drawn
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _reason(error: BaseException) -> str:
    """One line of what vLLM raised; where that only tells of another error, of that one."""
    if isinstance(error, ValidationError):
        return "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return _last_error(said) if _NO_REASON.search(str(error)) else said


@functools.cache  # hundreds of requests ask at once
def _last_words() -> str:
    """What the dead engine's processes wrote last; on a busy machine they may be at it still."""
    until = time.monotonic() + _WORDS_S
    while not (said := _last_error("")) and time.monotonic() < until:
        time.sleep(0.1)
    return said or "its workers died without a word"


def _last_error(otherwise: str) -> str:
    """The last error that the engine's processes wrote where this one writes, too.

    Its traceback comes on the error output once workers have ended, which takes seconds; vLLM's log
    has it at once, on the standard output.
    """
    for output in (2, 1):
        try:
            path = Path(os.readlink(f"/proc/self/fd/{output}"))
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:  # a terminal or a pipe
            continue
        said = [match for match in _ERROR.findall(text) if not _NO_REASON.search(match)]
        if said:
            return str(said[-1])
    return otherwise
