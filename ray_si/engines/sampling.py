"""Per-row sampling and stopping for transformers' ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from ray_si.engines.base import SamplingParams


class RowSampler(LogitsProcessor):
    """Draws each row's next token from its own distribution with its own random stream.

    Made for greedy ``generate``: it returns scores whose argmax is the drawn token, by the
    Gumbel-max trick (argmax of log p + Gumbel noise is a draw from p; Maddison et al.,
    arXiv 1411.0030). A row's draws depend on its seed and logits only, not on its neighbours.
    ``logprobs`` gathers the natural log-probability, under the model itself, of what was drawn:
    one tensor of shape (rows,) for each step.
    """

    def __init__(
        self, sampling: Sequence[SamplingParams], seeds: Sequence[int], prompt_length: int
    ) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._prompt_length = prompt_length
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        written = input_ids[:, self._prompt_length :]
        tokens = [self._draw(row, scores[row], written[row]) for row in range(len(scores))]
        drawn = torch.tensor(tokens, device=scores.device)[:, None]
        chosen = scores.gather(1, drawn)[:, 0] - scores.logsumexp(dim=1)
        self.logprobs.append(chosen.cpu())
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def _draw(self, row: int, logits: torch.Tensor, written: torch.Tensor) -> int:
        params = self._sampling[row]
        if params.presence_penalty and len(written):
            seen = written.unique()
            logits = logits.index_add(
                0, seen, torch.full_like(seen, -params.presence_penalty, dtype=logits.dtype)
            )
        if params.temperature == 0:
            return int(logits.argmax())
        # top-k leaves a short sorted list, which spares a sort of the whole vocabulary
        k = min(params.top_k or len(logits), len(logits))
        values, ids = torch.topk(logits / params.temperature, k)
        probabilities = values.softmax(0)
        if params.top_p < 1:
            before = probabilities.cumsum(0) - probabilities
            keep = before < params.top_p
            keep[0] = True
            probabilities, ids = probabilities[keep], ids[keep]
        uniform = torch.rand(len(probabilities), generator=self._generators[row])
        noise = -(-uniform.clamp_min(1e-12).log()).log().to(probabilities.device)
        return int(ids[(probabilities.log() + noise).argmax()])


class RowStopper(StoppingCriteria):
    """Ends each row at its own stop strings or token limit."""

    def __init__(
        self, tokenizer: Any, sampling: Sequence[SamplingParams], prompt_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._prompt_length = prompt_length
        # each token adds at least one byte, so this many hold any stop string
        self._tail = [max((len(s.encode()) for s in p.stop), default=0) + 1 for p in sampling]

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


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before its earliest stop string, and whether there was one."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)
