"""A causal language model with its tokenizer, as the engines on transformers share it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ray_si.engines import chat_template, models
from ray_si.engines.base import Completion, Request
from ray_si.engines.huggingface.sampling import cut_at_stop
from ray_si.engines.memory import check_memory
from ray_si.errors import EngineError


@dataclass(frozen=True)
class LanguageModel:
    """Weights with a tokenizer; ``end`` are the tokens that end a text, ``context`` counts tokens.

    ``device`` is where inputs go, ``template_arguments`` are those of the chat template.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    end: frozenset[int]
    context: int
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, request: Request) -> list[int]:
        """The tokens of a prompt; see `chat_template.encode`."""
        return chat_template.encode(self.tokenizer, request, self.template_arguments)

    @property
    def first(self) -> int:
        """A token that a text may begin with: the tokenizer's own, or one that ends texts."""
        token = self.tokenizer.bos_token_id
        return int(self.tokenizer.pad_token_id if token is None else token)

    def label(self, text: str) -> list[int]:
        """The tokens of a label that follows a prompt."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def completion(
        self, request: Request, prompt_tokens: int, row: list[int], logprobs: Sequence[float]
    ) -> Completion:
        """What was written: tokens up to the first that ends a text, or the first stop string.

        ``logprobs`` belong to the tokens of ``row``; what either has beyond the end is ignored.
        The text begins with the tag of a thought that the prompt opens.
        """
        params = request.sampling
        row = row[: params.max_tokens]
        end = next((i for i, token in enumerate(row) if token in self.end), None)
        text = chat_template.decode(self.tokenizer, row if end is None else row[:end])
        text, stopped = cut_at_stop(text, params.stop)
        count = len(row) if end is None else end + 1
        if stopped:  # what follows the stop string does not count
            count = self._tokens_until(row[:count], params.stop)
        return Completion(
            chat_template.with_opening(self.tokenizer, request, self.template_arguments, text),
            "stop" if stopped or end is not None else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=count,
            mean_logprob=sum(logprobs[:count]) / count if count else None,
        )

    def _tokens_until(self, row: list[int], stops: Sequence[str]) -> int:
        """How many tokens had been written when the first stop string was complete."""
        low, high = 1, len(row)
        while low < high:
            middle = (low + high) // 2
            if cut_at_stop(self.tokenizer.decode(row[:middle]), stops)[1]:
                high = middle
            else:
                low = middle + 1
        return low


def load(
    model: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust_remote_code: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    kind: Any = AutoModelForCausalLM,
) -> LanguageModel:
    """Load a bundled model, a folder or a hub name, onto a GPU where there is one.

    Where this process has several GPUs, accelerate spreads the layers over them (``device_map``).

    ``dtype`` "auto" is bfloat16 on a GPU and on processors with native bfloat16, else float32;
    ``threads`` sets torch's for the whole process; ``kind`` is transformers' class of such models.
    Raises EngineError where the model cannot be
    loaded, or its weights exceed the GPUs' free memory (then nothing has been loaded).
    """
    if threads:
        torch.set_num_threads(threads)
    place = _choose_device(device)
    if place.type == "cpu":  # else keys and values are repeated for every group of heads
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    weights = _choose_dtype(dtype, place)
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    path = models.resolve(model)
    gpus = _gpus(place)
    if gpus:
        free = sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
        check_memory(model, path, weights.itemsize, free, revision=revision)
    spread = {"device_map": "auto"} if len(gpus) > 1 else {}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **source)
        loaded: Any = kind.from_pretrained(path, dtype=weights, **spread, **source)
    except (OSError, ValueError) as error:
        raise EngineError(f"model {model!r} could not be loaded: {error}") from error
    loaded = (loaded if spread else loaded.to(place)).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    if not loaded.can_generate():
        loaded.config.pad_token_id = tokenizer.pad_token_id
        return LanguageModel(
            loaded, tokenizer, place, frozenset(), _context(loaded), chat_template_kwargs or {}
        )
    end = _end_tokens(loaded, tokenizer)
    # instruct models bring defaults of their own, such as a repetition penalty: only ours count
    loaded.generation_config = GenerationConfig(eos_token_id=sorted(end) or None)
    return LanguageModel(
        loaded, tokenizer, place, end, _context(loaded), chat_template_kwargs or {}
    )


def _context(model: Any) -> int:
    """Tokens that a model takes; very many where it does not say."""
    return getattr(model.config, "max_position_embeddings", None) or 1 << 20


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _gpus(place: torch.device) -> list[torch.device]:
    """The GPUs that a model at this place may take: all that Ray gave the process, or the one."""
    if place.type != "cuda":
        return []
    if place.index is not None:
        return [place]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return frozenset(token for token in tokens if token is not None)
