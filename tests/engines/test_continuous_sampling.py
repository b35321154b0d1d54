"""Draws of continuous batching: from the right distribution, and what they say of themselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st

from ray_si.engines.base import SamplingParams
from ray_si.engines.continuous_sampling import ContinuousSampler, Draw, _mixed, logprob

LOGITS = [2.0, 1.0, 0.0, -1.0]
END = 3


def future(draw, written=0, new=True):
    """As the manager hands a request to its processors."""
    kwargs = {} if draw is None else {"draw": draw}
    place = 0 if draw is None else draw.prompt_tokens + written
    state = SimpleNamespace(logit_processor_kwargs=kwargs, position_offset=place)
    return SimpleNamespace(state=state, has_new_token=new)


def step(sampler, futures, logits=LOGITS, before=None):
    """One step: the tokens, and the log-probabilities as the manager would return them."""
    columns = len(futures) + 2  # some are padding
    arguments = torch.empty((sampler.tensors_required, columns), dtype=torch.int32)
    defaults = torch.empty((sampler.tensors_required, 1), dtype=torch.int32)
    sampler.fill_defaults(defaults)
    arguments[:] = defaults
    sampler.prepare_tensor_args(requests_in_batch=futures, arg_storage=arguments)
    ids = torch.zeros(columns, dtype=torch.int32)
    ids[: len(before or ())] = torch.tensor(before or (), dtype=torch.int32)
    scores = sampler(ids, torch.tensor([logits] * columns), arguments)
    tokens = scores.argmax(-1)
    told = scores.softmax(-1).gather(1, tokens[:, None])[:, 0].log()
    return tokens.tolist(), [logprob(value) for value in told.tolist()]


def sampler():
    return ContinuousSampler(4, len(LOGITS), END, torch.device("cpu"))


def drawn(params, count=4000):
    """Shares of each token among draws with different seeds."""
    futures = [future(Draw(params, seed, 5, 0)) for seed in range(count)]
    tokens = step(sampler(), futures)[0][:count]
    return torch.bincount(torch.tensor(tokens), minlength=len(LOGITS)) / count


def test_draws_follow_the_distribution():
    expected = (torch.tensor(LOGITS) / 0.8).softmax(0)
    assert torch.allclose(drawn(SamplingParams(temperature=0.8)), expected, atol=0.03)


def test_places_of_one_completion_are_drawn_independently():
    params = SamplingParams()
    futures = [future(Draw(params, 7, 5, 0), place) for place in range(1, 4001)]
    tokens = torch.tensor(step(sampler(), futures)[0][:4000])
    pairs = torch.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16).reshape(4, 4) / 3999
    p = torch.tensor(LOGITS).softmax(0)
    assert torch.allclose(pairs, p[:, None] * p, atol=0.03)


def test_top_k_and_top_p_cut_the_tail_and_renormalise():
    two = torch.tensor(LOGITS[:2]).softmax(0)
    for params in (SamplingParams(top_k=2), SamplingParams(top_p=0.7)):
        found = drawn(params)
        assert torch.allclose(found[:2], two, atol=0.03)
        assert found[2:].sum() == 0
    assert drawn(SamplingParams(top_k=3, top_p=0.7), 500)[2:].sum() == 0  # of 3, 2 have 0.9


def test_the_likeliest_token_survives_any_top_p():
    assert drawn(SamplingParams(top_p=0.001), 50)[0] == 1


def test_rows_keep_their_own_parameters_and_those_without_a_token_have_none():
    greedy, sampled = SamplingParams(temperature=0), SamplingParams()
    futures = [
        future(Draw(greedy, 1, 5, 0)),
        future(Draw(sampled, 1, 5, 3), new=False),
        future(Draw(sampled, 1, 5, 1)),
        future(None),  # the manager's own
    ]
    tokens, _ = step(sampler(), futures)
    (alone, *_), _ = step(sampler(), [futures[2]])
    assert tokens == [0, alone, 0, 0, 0, 0]


def test_what_a_token_is_said_to_have_is_its_log_probability_under_the_model():
    params = SamplingParams(temperature=2.0, top_k=3)
    tokens, found = step(sampler(), [future(Draw(params, seed, 5, 0)) for seed in range(50)])
    expected = torch.tensor(LOGITS).log_softmax(0)[tokens].tolist()
    assert set(tokens) == {0, 1, 2}
    assert found == pytest.approx(expected, abs=1e-4)


@given(st.floats(-80, 0))
def test_unlikely_tokens_are_told_as_well(value):
    logits = torch.tensor([value, 0.0])
    expected = float(logits.double().log_softmax(0)[0])
    made = ContinuousSampler(1, 2, None, torch.device("cpu"))
    futures = [future(Draw(SamplingParams(), 0, 5, 0, forced=(0,)))]
    tokens, found = step(made, futures, logits.tolist())
    assert tokens[0] == 0
    assert found[0] == pytest.approx(expected, abs=1e-3)


def test_a_token_of_no_probability_is_told_as_very_unlikely():
    made = ContinuousSampler(1, 2, None, torch.device("cpu"))
    futures = [future(Draw(SamplingParams(), 0, 5, 0, forced=(0,)))]
    assert step(made, futures, [-torch.inf, 0.0])[1][0] < -200


def test_forced_tokens_come_one_after_the_other_and_then_it_is_drawn():
    draw = Draw(SamplingParams(temperature=0), 0, 5, 0, forced=(2, 1))
    made = sampler()
    assert [step(made, [future(draw, i)])[0][0] for i in range(3)] == [2, 1, 0]


def test_a_request_that_is_ended_ends_itself_and_its_slots_next_one_does_not():
    made, draw = sampler(), Draw(SamplingParams(temperature=0), 0, 5, 2)
    made.end(2)
    assert step(made, [future(draw, 1)])[0][0] == END
    made.begin(2)
    assert step(made, [future(draw, 0)])[0][0] == 0


def test_penalties_hold_for_what_a_request_has_written_and_not_for_its_slots_last_one():
    made = sampler()
    draw = Draw(SamplingParams(temperature=0, presence_penalty=10.0), 0, 5, 1)
    other = Draw(SamplingParams(temperature=0, presence_penalty=10.0), 0, 5, 0)
    written = [0]
    for place in range(4):  # the token before the first belongs to the prompt
        tokens, found = step(made, [future(other), future(draw, place)], before=[0, written[-1]])
        assert tokens[0] == 0
        written.append(tokens[1])
    assert written == [0, 0, 1, 2, 3]
    assert found[1] == pytest.approx(float(torch.tensor(LOGITS).log_softmax(0)[3]), abs=1e-4)
    assert step(made, [future(draw)], before=[2])[0][0] == 0
    # computed again after its pages were lost, it goes on where it was
    assert step(made, [future(draw, 1)], before=[0])[0][0] == 1


@given(st.integers(0, 2**32 - 1))
def test_words_are_mixed_as_murmur_does(word):
    expected = word
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        expected = (expected ^ expected >> shift) * factor % 2**32
    found = _mixed(torch.tensor([word - (word >> 31 << 32)], dtype=torch.int32))
    assert int(found) % 2**32 == expected
