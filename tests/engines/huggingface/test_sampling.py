"""Draws follow the distribution, whatever neighbours ask for."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings, strategies as st

from ray_si.engines.base import SamplingParams
from ray_si.engines.huggingface.sampling import RowSampler


def _draws(logits, sampling, count=4000):
    rows = torch.tensor([logits] * count)
    sampler = RowSampler([sampling] * count, list(range(count)), 1)
    scores = sampler(torch.zeros((count, 1), dtype=torch.long), rows)
    return torch.bincount(scores.argmax(1), minlength=len(logits)) / count


def test_draws_follow_the_distribution():
    logits = [2.0, 1.0, 0.0, -1.0]
    expected = (torch.tensor(logits) / 0.8).softmax(0)
    found = _draws(logits, SamplingParams(temperature=0.8))
    assert torch.allclose(found, expected, atol=0.03)


def test_top_k_and_top_p_cut_the_tail_and_renormalise():
    logits = [2.0, 1.0, 0.0, -1.0]
    two = torch.tensor(logits[:2]).softmax(0)
    for sampling in (SamplingParams(top_k=2), SamplingParams(top_p=0.7)):
        found = _draws(logits, sampling)
        assert torch.allclose(found[:2], two, atol=0.03)
        assert found[2:].sum() == 0


def _drawn(logits, params, uniform):
    """The token that a number from 0 to 1 stands for, worked out the slow way."""
    if params.temperature == 0:
        return max(range(len(logits)), key=logits.__getitem__)
    weights = {token: math.exp(value / params.temperature) for token, value in enumerate(logits)}
    ranked = sorted(weights, key=weights.__getitem__, reverse=True)
    ranked = ranked[: params.top_k or None]
    total, before, nucleus = sum(weights[token] for token in ranked), 0.0, []
    for token in ranked:
        if before < params.top_p or not nucleus:
            nucleus.append(token)
        before += weights[token] / total
    left = uniform * sum(weights[token] for token in nucleus)
    for token in nucleus:
        left -= weights[token]
        if left < 0:
            return token
    return nucleus[-1]


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([5, 300, 1000]),
    st.lists(
        st.builds(
            SamplingParams,
            temperature=st.sampled_from([0, 0.5, 1.0, 3.0]),
            top_k=st.sampled_from([0, 1, 40, 270]),
            top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_a_draw_inverts_the_distribution_whatever_its_neighbours_ask_for(seed, size, sampling):
    spread = torch.linspace(-4, 4, size)  # no two alike
    stream = torch.Generator().manual_seed(seed)
    rows = torch.stack([spread[torch.randperm(size, generator=stream)] for _ in sampling])
    seeds = [seed + i for i in range(len(sampling))]
    found = RowSampler(sampling, seeds, 1)(torch.zeros((len(sampling), 1), dtype=torch.long), rows)
    for row, params, own, token in zip(
        rows.tolist(), sampling, seeds, found.argmax(1).tolist(), strict=True
    ):
        numbers = torch.Generator().manual_seed(own)
        uniform = float(torch.rand(params.max_tokens, generator=numbers, dtype=torch.float64)[0])
        assert token == _drawn(row, params, uniform)


def test_the_likeliest_token_survives_any_top_p():
    assert _draws([5.0, 1.0], SamplingParams(top_p=0.01), 50)[0] == 1
