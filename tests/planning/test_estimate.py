"""Estimates: what the target takes, from a short sample."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.config.file import parse_config
from ray_si.errors import NoProgressError
from ray_si.planning.estimate import Growth, Sample, extrapolate, take_sample
from ray_si.planning.preview import DryRun
from tests.builds import PLANNED
from tests.command import invoke


def test_estimate_gives_ranges_as_json(planned_config):
    done = invoke(
        "estimate",
        planned_config,
        "--sample",
        24,
        "--json",
        "--set",
        "generator.prices={prompt: 1, completion: 2}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["target"], found["sample"]) == (1000, 24)
    for name in ("completions", "prompt_tokens", "completion_tokens", "hours", "dollars"):
        assert 0 < found[name]["low"] <= found[name]["mid"]
    dollars = (found["prompt_tokens"]["low"] + 2 * found["completion_tokens"]["low"]) / 1e6
    assert found["dollars"]["low"] == pytest.approx(dollars, rel=0.05)


def test_the_estimate_holds_what_a_whole_run_takes():
    """The truth is had by generating and gating on to the target; the samples are its beginning."""
    dry_run = DryRun(parse_config(PLANNED | {"target_instructions": 600}))
    whole = take_sample(dry_run, 220, 8)
    accepted: list[int] = []
    for candidate in range(len(whole.owner)):
        if not whole.near[candidate, accepted].any():
            accepted.append(candidate)
    truth = 32 * math.ceil((int(whole.owner[accepted[599]]) + 1) / 32)  # whole rounds
    naive = 600 / (sum(whole.owner[accepted] < 32) / 32)
    assert truth > 1.2 * naive  # acceptance falls, so that ignoring it is wrong
    for n in (48, 96):
        keep = whole.owner < n
        part = Sample(
            whole.prompt_tokens[:n],
            whole.completion_tokens[:n],
            whole.owner[keep],
            whole.near[np.ix_(keep, keep)],
            whole.instance_tokens,
            whole.seconds,
        )
        found = extrapolate(part, dry_run.config)
        assert found.completions.low <= truth <= found.completions.high
        assert naive < found.completions.mid < 2 * truth
    assert extrapolate(part, dry_run.config) == found


def synthetic(kinds, candidates, seed=0):
    """Candidates that are near each other where they are of the same of ``kinds`` kinds."""
    kind = np.random.default_rng(seed).integers(0, kinds, candidates)
    near = kind[:, None] == kind[None, :]
    np.fill_diagonal(near, False)
    return near, len(set(kind.tolist()))


def test_growth_ends_where_there_is_nothing_new():
    growth = Growth(*synthetic(200, 300))
    assert growth.candidates_for(120) == pytest.approx(-200 * math.log(1 - 120 / 200), rel=0.15)
    assert growth.candidates_for(400) == math.inf


@settings(max_examples=25)
@given(st.integers(20, 2000), st.integers(5, 120), st.integers(0, 9))
def test_growth_slows_down_and_targets_need_ever_more_candidates(kinds, candidates, seed):
    growth = Growth(*synthetic(kinds, candidates, seed))
    needed = [growth.candidates_for(target) for target in (1, 10, 100, 1000)]
    assert needed == sorted(needed)
    rates = [growth.rate(n) for n in (0, 10, 1000, 1e6, math.inf)]
    assert rates == sorted(rates, reverse=True)
    assert growth.candidates_for(growth_target := synthetic(kinds, candidates, seed)[1]) == (
        pytest.approx(candidates, rel=0.05)
    ), growth_target


def test_a_sample_without_duplicates_says_that_it_cannot_see_the_fall():
    n = 16
    sample = Sample(
        np.full(n, 100), np.full(n, 20), np.arange(n), np.zeros((n, n), bool),
        np.array([[50, 10]]), (1.0, 0.5),
    )  # fmt: skip
    prices = {"prices": {"prompt": 1.0, "completion": 10.0}}
    priced = PLANNED | {"generator": PLANNED["generator"] | prices}
    found = extrapolate(sample, parse_config(priced))
    assert found.completions.low == found.completions.high == 1024  # whole rounds of 32
    assert found.prompt_tokens.mid == 1024 * 100 + 1000 * 50
    assert found.completion_tokens.mid == 1024 * 20 + 1000 * 10
    assert found.hours.mid == pytest.approx((1024 * 1.0 + 1000 * 0.5) / 3600)
    assert found.dollars.mid == pytest.approx((152_400 * 1 + 30_480 * 10) / 1e6)
    assert any("no near-duplicates" in note for note in found.notes)


def test_out_of_reach_everything_is_without_end_whatever_a_token_costs():
    n = 16
    near = np.arange(n)[:, None] // 4 == np.arange(n) // 4
    np.fill_diagonal(near, False)
    sample = Sample(
        np.zeros(n), np.full(n, 20), np.arange(n), near, np.array([[50, 10]]), (1.0, 0.5)
    )
    generator = PLANNED["generator"] | {"prices": {"completion": 1.0}}
    config = parse_config(PLANNED | {"generator": generator, "target_instructions": 10**6})
    found = extrapolate(sample, config)
    for name in ("completions", "prompt_tokens", "completion_tokens", "hours", "dollars"):
        assert getattr(found, name).high == math.inf, name
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["dollars"]["high"] is None


def test_a_sample_that_accepts_nothing_says_so():
    n = 8
    sample = Sample(
        np.full(n, 100), np.full(n, 20), np.zeros(0, int), np.zeros((0, 0), bool),
        np.zeros((0, 2), int), (1.0, 0.0),
    )  # fmt: skip
    with pytest.raises(NoProgressError, match="ray-si preview"):
        extrapolate(sample, parse_config(PLANNED))


def test_a_model_of_their_own_writes_the_instances(tmp_path):
    recording = tmp_path / "answers.jsonl"
    recording.write_text(json.dumps({"prompt": "never asked", "completion": "x"}) + "\n")
    other = {"engine": "replay", "model": None, "replay": {"recording": str(recording)}}
    dry_run = DryRun(parse_config(PLANNED | {"instance_generator": other}))
    decided = dry_run.decide(dry_run.ask(2))
    assert len(decided.accepted) > 4  # by the script
    (written,) = dry_run.write(decided.accepted[:1])
    assert written.completion.error == "the recording has no answer to this request"
    assert [item["reason"] for item in written.rejected] == ["engine_error"]
