"""Draws of continuous batching: from the right distribution, and what they say of themselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st

from ray_si.engines.base import SamplingParams
from ray_si.engines.huggingface.continuous_sampling import ContinuousSampler, Draw, logprob
from ray_si.engines.huggingface.sampling import RowSampler, uniforms

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
    rows = torch.as_tensor(logits).expand(len(futures), -1)
    scores = sampler(ids, torch.cat([rows, rows[:1], rows[:1]]), arguments)
    tokens = scores.argmax(-1)
    told = scores.softmax(-1).gather(1, tokens[:, None])[:, 0].log()
    return tokens.tolist(), [logprob(value) for value in told.tolist()]


def sampler():
    return ContinuousSampler(4, len(LOGITS), END, torch.device("cpu"))


@given(
    st.lists(
        st.tuples(
            st.builds(
                SamplingParams,
                temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
                top_p=st.sampled_from([0.01, 0.5, 0.9, 1.0]),
                top_k=st.integers(0, 6),
                presence_penalty=st.sampled_from([0.0, 1.5]),
            ),
            st.integers(0, 2**63 - 1),
            st.lists(st.integers(-4, 4), min_size=4, max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_draws_are_those_of_static_batches(rows):
    params, seeds, logits = (list(column) for column in zip(*rows, strict=True))
    logits = torch.tensor(logits) + torch.tensor([0.0, 0.1, 0.2, 0.3])  # no ties
    written = torch.zeros((len(rows), 1), dtype=torch.long)
    theirs, ours = RowSampler(params, seeds, 1), sampler()
    futures = [
        Draw(one, 5, slot, uniforms(seed, one.max_tokens).tolist())
        for slot, (one, seed) in enumerate(zip(params, seeds, strict=True))
    ]
    for place in range(3):
        expected = theirs(written, logits).argmax(-1)
        before = written[:, -1].tolist()
        tokens, _ = step(ours, [future(one, place) for one in futures], logits, before)
        assert tokens[: len(rows)] == expected.tolist()
        written = torch.cat([written, expected[:, None]], 1)


def test_rows_keep_their_own_parameters_and_those_without_a_token_have_none():
    greedy, sampled = SamplingParams(temperature=0), SamplingParams()
    futures = [
        future(Draw(greedy, 5, 0, [0.99])),
        future(Draw(sampled, 5, 3, [0.99]), new=False),
        future(Draw(sampled, 5, 1, [0.99])),
        future(None),  # the manager's own
    ]
    tokens, _ = step(sampler(), futures)
    assert tokens == [0, 3, 0, 0, 0, 0]


def test_what_a_token_is_said_to_have_is_its_log_probability_under_the_model():
    params = SamplingParams(temperature=2.0, top_k=3)
    tokens, found = step(sampler(), [future(Draw(params, 5, 0, [u / 50])) for u in range(50)])
    expected = torch.tensor(LOGITS).log_softmax(0)[tokens].tolist()
    assert set(tokens) == {0, 1, 2}
    assert found == pytest.approx(expected, abs=1e-4)


@given(st.floats(-80, 0))
def test_unlikely_tokens_are_told_as_well(value):
    logits = torch.tensor([value, 0.0])
    expected = float(logits.double().log_softmax(0)[0])
    made = ContinuousSampler(1, 2, None, torch.device("cpu"))
    futures = [future(Draw(SamplingParams(), 5, 0, forced=(0,)))]
    tokens, found = step(made, futures, logits.tolist())
    assert tokens[0] == 0
    assert found[0] == pytest.approx(expected, abs=1e-3)


def test_a_token_of_no_probability_is_told_as_very_unlikely():
    made = ContinuousSampler(1, 2, None, torch.device("cpu"))
    futures = [future(Draw(SamplingParams(), 5, 0, forced=(0,)))]
    assert step(made, futures, [-torch.inf, 0.0])[1][0] < -200


def test_forced_tokens_come_one_after_the_other_and_then_it_is_drawn():
    draw = Draw(SamplingParams(temperature=0), 5, 0, forced=(2, 1))
    made = sampler()
    assert [step(made, [future(draw, i)])[0][0] for i in range(3)] == [2, 1, 0]


def test_a_request_that_is_ended_ends_itself_and_its_slots_next_one_does_not():
    made, draw = sampler(), Draw(SamplingParams(temperature=0), 5, 2)
    made.end(2)
    assert step(made, [future(draw, 1)])[0][0] == END
    made.begin(2)
    assert step(made, [future(draw, 0)])[0][0] == 0


def test_penalties_hold_for_what_a_request_has_written_and_not_for_its_slots_last_one():
    made = sampler()
    draw = Draw(SamplingParams(temperature=0, presence_penalty=10.0), 5, 1)
    other = Draw(SamplingParams(temperature=0, presence_penalty=10.0), 5, 0)
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
