"""Sampling for transformers' continuous batching: each request by its own parameters and seed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import expm1, log
from typing import Any

import torch

from ray_si.engines.base import SamplingParams

_SCALE = 16.0
"""How `_telling` squeezes log-probabilities; in float32, they are right to 1e-3 down to -80."""


@dataclass(frozen=True)
class Draw:
    """How a request's tokens are drawn.

    ``prompt_tokens`` is where its completion starts, ``slot`` a number that no other request has at
    the same time. ``forced`` tokens are taken instead of drawn ones: that scores them.
    """

    sampling: SamplingParams
    seed: int
    prompt_tokens: int
    slot: int
    forced: tuple[int, ...] = ()


class ContinuousSampler:
    """Stands in for the manager's ``ContinuousBatchingLogitsProcessorList``, with its interface.

    The library's own list draws all requests from one random stream, knows neither greedy requests
    beside others nor a presence penalty, and tells the log-probability after the cut of top-k and
    top-p. Here each token is drawn by the Gumbel-max trick (arXiv 1411.0030) with noise that is
    hashed from seed, place in the completion and token: a draw depends on its request's seed and
    logits only. The manager picks the largest score (``do_sample=False``), which is that of the
    drawn token, and returns its log-probability under these scores, from which `logprob` reads the
    one under the model itself.

    Requests bring their `Draw` as the keyword argument ``draw``. All of `__call__` runs on the
    device with shapes that don't depend on values, as CUDA graphs need. ``vocabulary`` counts
    logits; slots run from 0 to ``slots`` - 1.
    """

    tensors_required = 7
    do_processing = True

    def __init__(self, slots: int, vocabulary: int, end: int | None, device: torch.device) -> None:
        self._nobody = slots
        self._end = end
        self._ended = [False] * (slots + 1)
        self._seen = torch.zeros((slots + 1, vocabulary), dtype=torch.bool, device=device)
        self._tokens = torch.arange(vocabulary, dtype=torch.int32, device=device)

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
        int32_tensor.copy_(_columns([self._padding()]))

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> Any:
        """Write the arguments of all requests that get a token, one column each, in order."""
        rows = [self._row(future.state) for future in requests_in_batch if future.has_new_token]
        if rows:
            arg_storage[:, : len(rows)] = _columns(rows).to(arg_storage.device)
        return arg_storage

    def _padding(self) -> _Row:
        return 0.0, 2.0, 0.0, 0, 0, self._nobody << 1 | 1, -1

    def _row(self, state: Any) -> _Row:
        draw: Draw | None = state.logit_processor_kwargs.get("draw")
        if draw is None:  # the manager's own, to warm up
            return self._padding()
        place = state.position_offset - draw.prompt_tokens
        forced = draw.forced[place] if place < len(draw.forced) else -1
        if self._ended[draw.slot] and self._end is not None:
            forced = self._end
        params = draw.sampling
        return (
            params.temperature,
            params.top_p if params.top_p < 1 else 2.0,  # rounding must not cut what 1 lets through
            params.presence_penalty,
            params.top_k,
            _key(draw.seed, place),
            draw.slot << 1 | (place == 0),
            forced,
        )

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of shape (rows, vocabulary) that say what was drawn and how likely it was.

        ``input_ids``, shape (rows,), is the token before each, ``scores`` are the logits.
        """
        temperature, top_p, penalty = (row.view(torch.float32) for row in logits_processor_args[:3])
        top_k, key, slot, forced = logits_processor_args[3:]
        seen = self._note(slot >> 1, slot & 1 == 1, input_ids)
        scaled = (scores - penalty[:, None] * seen) / temperature.where(temperature > 0, 1)[:, None]
        noisy = _cut(scaled, top_k, top_p) + _gumbel(key, self._tokens) * (temperature > 0)[:, None]
        drawn = noisy.argmax(-1)
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


def _cut(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for what top-k, and of its rest top-p, leave out; the likeliest stays."""
    ordered = logits.sort(dim=-1, descending=True).values
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    kept = (ranks < top_k[:, None]) | (top_k == 0)[:, None]
    probabilities = ordered.masked_fill(~kept, -torch.inf).softmax(-1)
    kept &= probabilities.cumsum(-1) - probabilities < top_p[:, None]
    least = ordered.masked_fill(~kept | (ranks == 0), torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < least.minimum(ordered[:, :1]), -torch.inf)


def _gumbel(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of shape (keys, tokens), a pure function of both."""
    uniform = ((_mixed(tokens ^ keys[:, None]) >> 9 & 0x7FFFFF) + 0.5) / 0x800000
    return -(-uniform.log()).log()


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """The finalizer of MurmurHash3 for 32 bits, on int32 that wraps (A. Appleby, public domain)."""
    words = words ^ words >> 16 & 0xFFFF
    words = words * (0x85EBCA6B - (1 << 32))
    words = words ^ words >> 13 & 0x7FFFF
    words = words * (0xC2B2AE35 - (1 << 32))
    return words ^ words >> 16 & 0xFFFF


def _key(seed: int, place: int) -> int:
    """32 bits, signed, of a request's seed and a place in its completion."""
    return int.from_bytes(blake2b(b"%d %d" % (seed, place), digest_size=4).digest(), signed=True)


_Row = tuple[float, float, float, int, int, int, int]
"""Temperature, top-p, presence penalty; top-k, key of the noise, slot and whether it is new (the
lowest bit), token that is forced or -1."""


def _columns(rows: list[_Row]) -> torch.Tensor:
    """Rows as the manager stores them: shape (7, rows), int32, floats by their bits."""
    floats = torch.tensor([row[:3] for row in rows], dtype=torch.float32).view(torch.int32)
    return torch.cat([floats, torch.tensor([row[3:] for row in rows], dtype=torch.int32)], 1).T
