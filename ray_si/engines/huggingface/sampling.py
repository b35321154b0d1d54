"""Per-row sampling and stopping for transformers' ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from ray_si.engines.base import SamplingParams

_SHORT = 256
"""Likeliest tokens that are sorted at first: nearly always all that ``top_p`` lets through."""

_FEW = 32
"""Rows whose whole vocabulary is sorted at once."""


class RowSampler(LogitsProcessor):
    """Draws each row's next token from its own distribution with its own random stream.

    Made for greedy ``generate``: it returns scores whose argmax is the drawn token. A row takes one
    number from its stream for each token (`uniforms`, `draw`), so its draws depend on its seed and
    logits only, not on its neighbours. ``logprobs`` gathers the natural log-probability, under the
    model itself, of what was drawn: one tensor of shape (rows,) for each step.
    """

    def __init__(
        self, sampling: Sequence[SamplingParams], seeds: Sequence[int], prompt_length: int
    ) -> None:
        self._prompt_length = prompt_length
        self._uniform = torch.zeros(
            (len(sampling), max(params.max_tokens for params in sampling)), dtype=torch.float64
        )
        for row, (params, seed) in enumerate(zip(sampling, seeds, strict=True)):
            self._uniform[row, : params.max_tokens] = uniforms(seed, params.max_tokens)
        self._temperature = torch.tensor([params.temperature for params in sampling])
        self._top_k = torch.tensor([params.top_k for params in sampling])
        self._top_p = torch.tensor([params.top_p for params in sampling], dtype=torch.float64)
        self._presence_penalty = torch.tensor([params.presence_penalty for params in sampling])
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        written = input_ids[:, self._prompt_length :]
        drawn = self._draw(self._penalised(scores, written), written.shape[1])[:, None]
        chosen = scores.gather(1, drawn)[:, 0] - scores.logsumexp(dim=1)
        self.logprobs.append(chosen.cpu())
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def _penalised(self, logits: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        if not self._presence_penalty.any():
            return logits
        penalty = self._presence_penalty.to(logits)[:, None]
        return logits - penalty * torch.zeros_like(logits).scatter_(1, written, 1.0)

    def _draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """A token for each row."""
        device, vocabulary = logits.device, logits.shape[1]
        temperature, top_k = self._temperature.to(device), self._top_k.to(device)
        top_p, uniform = self._top_p.to(device), self._uniform[:, step].to(device)
        logits, top_k = tempered(logits, temperature, top_k)
        tokens, is_enough = draw(
            logits, min(vocabulary, max(_SHORT, int(top_k.max()))), top_k, top_p, uniform
        )
        for rows in torch.arange(len(logits), device=device)[~is_enough].split(_FEW):
            tokens[rows] = draw(logits[rows], vocabulary, top_k[rows], top_p[rows], uniform[rows])[
                0
            ]
        return tokens


def uniforms(seed: int, count: int) -> torch.Tensor:
    """The numbers from 0 to 1, float64, that a request's tokens are drawn with, in order."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tempered(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of shape (rows, vocabulary) over each row's temperature, and top_k; 0 makes it 1."""
    greedy = temperature == 0
    return logits / torch.where(greedy, 1.0, temperature)[:, None], torch.where(greedy, 1, top_k)


def draw(
    logits: torch.Tensor,
    count: int,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each row, from its ``count`` likeliest, and whether these were enough.

    The row's number is looked up in the cumulative distribution of its tokens, likeliest first:
    cut by ``top_k``, normalised, then cut by ``top_p`` (nucleus sampling; Holtzman et al., arXiv
    1904.09751). All but ``logits`` have shape (rows,). The vocabulary is always enough. No shape
    depends on a value, and nothing is read back from the device.
    """
    values, ids = logits.topk(count)
    is_cut = torch.arange(count, device=logits.device) >= top_k[:, None]
    is_cut &= top_k[:, None] > 0
    values = values.double().masked_fill(is_cut, -torch.inf)
    whole = torch.where(top_k > 0, values.logsumexp(1), logits.logsumexp(1).double())
    summed = (values - whole[:, None]).exp().cumsum(1)
    before = summed.roll(1, 1)
    before[:, 0] = 0.0
    kept = ((before < top_p[:, None]) & ~is_cut).sum(1).clamp(min=1)
    mass = summed.gather(1, kept[:, None] - 1)
    place = torch.minimum((summed <= uniform[:, None] * mass).sum(1), kept - 1)
    is_enough = (top_k > 0) | (summed[:, -1] >= top_p)
    return ids.gather(1, place[:, None])[:, 0], is_enough


class RowStopper(StoppingCriteria):
    """Ends each row at its own stop strings or token limit."""

    def __init__(
        self, tokenizer: Any, sampling: Sequence[SamplingParams], prompt_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._prompt_length = prompt_length
        self._tail = [tail_length(params.stop) for params in sampling]

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        written = input_ids.shape[1] - self._prompt_length
        done = [
            written >= params.max_tokens or self._stopped(input_ids[row], row, written)
            for row, params in enumerate(self._sampling)
        ]
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, ids: torch.Tensor, row: int, written: int) -> bool:
        stops = self._sampling[row].stop
        if not stops:
            return False
        tail = self._tokenizer.decode(ids[-min(written, self._tail[row]) :])
        return any(stop in tail for stop in stops)


def tail_length(stops: Sequence[str]) -> int:
    """How many of the last tokens hold any of these strings that has just been completed."""
    return max((len(stop.encode()) for stop in stops), default=0) + 1  # a token is a byte or more


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before its earliest stop string, and whether there was one."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)
