"""The split of seed tasks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from ray_si.dedup import RougeIndex
from ray_si.records import Instance, SeedTask
from ray_si.run.seeds import load_seeds
from ray_si.training.hold_out import split_seeds


def kind(seed):
    return seed.is_classification, any(instance.input for instance in seed.instances)


def test_a_quarter_of_each_kind_of_the_built_in_seeds_is_held_out():
    seeds, _ = load_seeds("bundled")
    build, held_out = split_seeds(seeds)
    assert sorted(s.id for s in build + held_out) == sorted(s.id for s in seeds)
    all_kinds, held_kinds = Counter(map(kind, seeds)), Counter(map(kind, held_out))
    assert len(all_kinds) > 2
    for name, count in all_kinds.items():
        assert abs(held_kinds[name] - count / 4) <= 1, name


def test_no_task_that_is_held_out_is_a_near_copy_of_one_to_build_with():
    build, held_out = split_seeds(load_seeds("bundled")[0])
    index = RougeIndex()
    index.add([seed.instruction for seed in build])
    for near in index.most_similar([seed.instruction for seed in held_out], 1):
        assert near.scores[0] <= 0.45


WORDS = ("name", "river", "city", "poem", "sum", "sort", "list", "tone", "of", "the")
seed_tasks = st.lists(
    st.tuples(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.booleans(), st.booleans()
    ),
    max_size=30,
)


@given(seed_tasks, st.randoms())
def test_the_sides_do_not_depend_on_the_order_and_near_copies_share_one(tasks, random):
    seeds = [
        SeedTask(
            f"s{i}", "n", " ".join(words), (Instance("x" * has_input, "y"),), is_classification
        )
        for i, (words, is_classification, has_input) in enumerate(tasks)
    ]
    build, held_out = split_seeds(seeds)
    shuffled = list(seeds)
    random.shuffle(shuffled)
    again = split_seeds(shuffled)
    assert {s.id for s in again[1]} == {s.id for s in held_out}
    assert not {s.instruction for s in build} & {s.instruction for s in held_out}
    assert build == [s for s in seeds if s in build]
    assert len(held_out) <= (len(seeds) + 4) / 2
