"""Demonstrations: how many of which kind, and always the same for the same seed."""

from __future__ import annotations

import random

from hypothesis import given, strategies as st

from ray_si.self_instruct.sampling import sample_demonstrations

HUMAN = MACHINE = 20


@given(st.integers(0, 2**62), st.integers(0, 20))
def test_six_human_and_two_machine_once_the_pool_has_two(seed, pool):
    chosen = sample_demonstrations(HUMAN, pool, seed=seed)
    kinds = [demonstration.kind for demonstration in chosen]
    assert len(chosen) == len(set(chosen)) == 8
    assert kinds.count("machine") == min(2, pool)
    for demonstration in chosen:
        assert 0 <= demonstration.index < (HUMAN if demonstration.kind == "human" else pool)


@given(st.integers(0, 2**62))
def test_the_seed_alone_decides(seed):
    assert sample_demonstrations(HUMAN, MACHINE, seed=seed) == sample_demonstrations(
        HUMAN, MACHINE, seed=seed
    )


def test_different_seeds_choose_and_order_differently():
    orders = {tuple(sample_demonstrations(HUMAN, MACHINE, seed=seed)) for seed in range(50)}
    assert len(orders) == 50


def test_every_human_task_is_chosen_about_equally_often():
    counts = [0] * HUMAN
    for seed in range(2000):
        for demonstration in sample_demonstrations(HUMAN, 0, seed=seed):
            counts[demonstration.index] += 1
    assert all(650 < count < 950 for count in counts)


def test_too_few_seeds_give_fewer_demonstrations():
    assert len(sample_demonstrations(3, 0, seed=0)) == 3


@given(
    st.integers(0, 2**62),
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.data(),
)
def test_regions_are_drawn_from_as_if_what_was_drawn_were_taken_out(seed, region_of, data):
    groups = [[i for i, r in enumerate(region_of) if r == region] for region in set(region_of)]
    count = data.draw(st.integers(0, len(region_of)))
    rng, expected = random.Random(seed), []
    while len(expected) < count:
        rest = [[i for i in group if i not in expected] for group in groups]
        left = [group for group in rest if group]
        for group in rng.sample(left, min(count - len(expected), len(left))):
            expected.append(rng.choice(group))
    chosen = sample_demonstrations(
        0, len(region_of), total=count, machine_count=count, seed=seed, regions=groups
    )
    rng.shuffle(expected)
    assert [demonstration.index for demonstration in chosen] == expected


@given(st.integers(0, 2**62), st.integers(1, 5), st.integers(1, 8))
def test_regions_are_drawn_without_repetition_before_all_were(seed, regions, count):
    groups = [[i for i in range(20) if i % regions == r] for r in range(regions)]
    chosen = sample_demonstrations(HUMAN, MACHINE, seed=seed, machine_count=count, regions=groups)
    drawn = [d.index for d in chosen if d.kind == "machine"]
    assert len(drawn) == len(set(drawn)) == count
    assert len({i % regions for i in drawn}) == min(count, regions)


def test_a_text_weighs_the_less_the_larger_its_region():
    groups = [[0], list(range(1, 20))]
    counts = [0] * 20
    for seed in range(3000):
        for d in sample_demonstrations(0, MACHINE, machine_count=1, seed=seed, regions=groups):
            counts[d.index] += 1
    assert 1400 < counts[0] < 1600
    assert all(40 < count < 120 for count in counts[1:])
