"""Sampling for transformers' continuous batching: each request by its own parameters and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, log
from typing import Any

import torch

from ray_si.engines.base import SamplingParams
from ray_si.engines.huggingface.sampling import draw, tempered

_SCALE = 16.0
"""How `_telling` squeezes log-probabilities; in float32, they are right to 1e-3 down to -80."""


@dataclass(frozen=True)
class Draw:
    """How a request's tokens are drawn.

    ``prompt_tokens`` is where its completion starts, ``slot`` a number that no other request has at
    the same time, ``uniform`` the numbers for its tokens (see `draw`). ``forced`` tokens are taken
    instead of drawn ones: that scores them.
    """

    sampling: SamplingParams
    prompt_tokens: int
    slot: int
    uniform: Sequence[float] = ()
    forced: tuple[int, ...] = ()


class ContinuousSampler:
    """Stands in for the manager's ``ContinuousBatchingLogitsProcessorList``, with its interface.

    The library's own list draws all requests from one random stream, knows neither greedy requests
    beside others nor a presence penalty, and tells the log-probability after the cut of top-k and
    top-p. Here tokens are drawn as `RowSampler` draws them, with the same numbers for a seed. The
    manager picks the largest score (``do_sample=False``), which is that of the drawn token, and
    returns its log-probability under these scores, from which `logprob` reads the one under the
    model itself.

    Requests bring their `Draw` as the keyword argument ``draw``. All of `__call__` runs on the
    device with shapes that don't depend on values, as CUDA graphs need. ``vocabulary`` counts
    logits; slots run from 0 to ``slots`` - 1.
    """

    tensors_required = 7
    do_processing = True

    def __init__(self, slots: int, vocabulary: int, end: int | None, device: torch.device) -> None:
        self._padding: _Row = (0.0, 1.0, 0.0, 0.0, 0, slots << 1 | 1, -1)
        self._end = end
        self._ended = [False] * (slots + 1)
        self._seen = torch.zeros((slots + 1, vocabulary), dtype=torch.bool, device=device)

    def begin(self, slot: int) -> None:
        """A new request has this slot."""
        self._ended[slot] = False

    def end(self, slot: int) -> None:
        """Make the request in this slot end itself with its next token, if the model has one."""
        self._ended[slot] = True

    # What the manager calls ------------------------------------------------------------------

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Any will do; they come from our engine."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Arguments of rows that are padding, shape (7, 1)."""
        int32_tensor.copy_(_columns([self._padding]))

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> Any:
        """Write the arguments of all requests that get a token, one column each, in order."""
        rows = [self._row(future.state) for future in requests_in_batch if future.has_new_token]
        if rows:
            arg_storage[:, : len(rows)] = _columns(rows).to(arg_storage.device)
        return arg_storage

    def _row(self, state: Any) -> _Row:
        own: Draw | None = state.logit_processor_kwargs.get("draw")
        if own is None:  # the manager's own, to warm up
            return self._padding
        place = state.position_offset - own.prompt_tokens
        forced = own.forced[place] if place < len(own.forced) else -1
        if self._ended[own.slot] and self._end is not None:
            forced = self._end
        params = own.sampling
        return (
            params.temperature,
            params.top_p,
            params.presence_penalty,
            own.uniform[place] if place < len(own.uniform) else 0.0,  # the step after the last
            params.top_k,
            own.slot << 1 | (place == 0),
            forced,
        )

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of shape (rows, vocabulary) that say what was drawn and how likely it was.

        ``input_ids``, shape (rows,), is the token before each, ``scores`` are the logits.
        """
        temperature, top_p, penalty, uniform = (
            row.view(torch.float32) for row in logits_processor_args[:4]
        )
        top_k, slot, forced = logits_processor_args[4:]
        seen = self._note(slot >> 1, slot & 1 == 1, input_ids)
        logits, top_k = tempered(scores - penalty[:, None] * seen, temperature, top_k)
        drawn, _ = draw(logits, scores.shape[1], top_k, top_p, uniform)
        drawn = drawn.where(forced < 0, forced)[:, None]
        return _telling(scores, drawn, scores.gather(1, drawn) - scores.logsumexp(-1, keepdim=True))

    def _note(self, slot: torch.Tensor, first: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """What each row has written, shape (rows, vocabulary), once ``token`` is noted in it.

        The token before the first is the prompt's, and what the slot held another request's.
        """
        slot, old = slot.long(), ~first[:, None]
        seen = (self._seen[slot] & old).scatter(1, token[:, None].long(), old)
        self._seen[slot] = seen
        return seen


def logprob(told: float) -> float:
    """The model's log-probability of a token, from the manager's; undoes `_telling`."""
    return _SCALE * (log(max(expm1(-told), 2.0**-25)) + 1)


def _telling(scores: torch.Tensor, drawn: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Scores like ``scores`` whose largest is ``drawn``, with a log-probability that tells another.

    ``drawn`` and ``logprobs`` have shape (rows, 1). A second token gets x = logprob / `_SCALE` - 1,
    which leaves the first a log-probability of -log(1 + exp(x)).
    """
    told = torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
    return told.scatter(1, (drawn + 1) % scores.shape[1], logprobs / _SCALE - 1)


_Row = tuple[float, float, float, float, int, int, int]
"""Temperature, top-p, presence penalty, number from 0 to 1; top-k, slot and whether it is new (the
lowest bit), token that is forced or -1."""


def _columns(rows: list[_Row]) -> torch.Tensor:
    """Rows as the manager stores them: shape (7, rows), int32, floats by their bits."""
    floats = torch.tensor([row[:4] for row in rows], dtype=torch.float32).view(torch.int32)
    return torch.cat([floats, torch.tensor([row[4:] for row in rows], dtype=torch.int32)], 1).T
