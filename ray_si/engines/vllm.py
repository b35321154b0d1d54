"""Text from a model that vLLM runs: continuous batching, paged attention, cached prefixes."""

from __future__ import annotations

import itertools
import json
import logging
import os
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

from ray_si.engines import bundled, chat_template
from ray_si.engines.base import Completion, Request, SamplingParams, too_long
from ray_si.engines.huggingface.memory import check_memory
from ray_si.errors import EngineError

logger = logging.getLogger(__name__)

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter's must not exceed it."""


class VLLMEngine:
    """One vLLM engine in this process, and its workers in others.

    A model over several GPUs is run by Ray's workers, in the placement group of the replica. Every
    request samples with its own seed; labels are scored exactly, token by token, over the cached
    prompt.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        max_batch: int = 128,
        dtype: str = "auto",
        trust_remote_code: bool = False,
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
        path = bundled.resolve(model)
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        gpus = tensor_parallel_size * pipeline_parallel_size
        if gpus == 1 and current_platform.is_cuda():
            if not torch.cuda.device_count():
                raise EngineError("this vLLM needs a GPU: set generator.gpus to 1")
            if not quantization:
                weights = torch.float32 if dtype == "float32" else torch.bfloat16
                have = current_platform.get_device_total_memory() * gpu_memory_utilization
                check_memory(model, path, weights, source, int(have))
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
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, **source)
            self._engine = AsyncLLM.from_engine_args(made)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise EngineError(f"vLLM could not start {model}: {_reason(error)}") from error
        self._context: int = self._engine.model_config.max_model_len
        self._lora = LoRARequest("adapter", 1, lora) if lora else None
        self._numbers = itertools.count()
        self.slots = max_batch
        self.capacity = 2 * max_batch  # so that the next is there when one is done

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`. Ends this process once vLLM's workers are dead."""
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
            written.text,
            written.finish_reason,
            prompt_tokens=len(prompt),
            completion_tokens=count,
            mean_logprob=written.cumulative_logprob / count if count else None,
        )

    def check_health(self) -> None:
        """Raise where the workers are dead, and no request has noticed yet."""
        if self._engine.errored:
            raise self._engine.dead_error

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
        try:
            return [output async for output in outputs][-1]
        except EngineDeadError:
            # nothing will be answered here again: Serve replaces a replica at once that has died,
            # and its requests are asked elsewhere
            logger.critical("the workers of vLLM are dead, and this replica with them")
            os._exit(1)

    def _encode(self, request: Request) -> list[int]:
        return chat_template.encode(self._tokenizer, request, self._template_arguments)


def engine_args(
    path: str,
    *,
    max_batch: int,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    lora: str | None = None,
    engine_kwargs: dict[str, Any] | None = None,
    **named: Any,
) -> AsyncEngineArgs:
    """vLLM's own arguments; ``named`` ones are called as vLLM calls them.

    ``engine_kwargs`` come last and win. Raises EngineError where ``lora`` is no adapter, and what
    vLLM raises where it knows no such argument.
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
        arguments |= {"enable_lora": True, "max_lora_rank": _room_for(lora)}
    return AsyncEngineArgs(**arguments | (engine_kwargs or {}), enable_log_requests=False)


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


def _room_for(lora: str) -> int:
    """The least room that an adapter fits; EngineError where there is no adapter."""
    try:
        rank = json.loads((Path(lora) / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        return next(room for room in _LORA_RANKS if room >= rank)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise EngineError(f"{lora} is no LoRA adapter that vLLM can take: {error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
