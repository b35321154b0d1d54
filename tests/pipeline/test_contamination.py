"""What comes too close to an evaluation set is refused, whichever part it is, and counted."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from ray_si.config.file import parse_config, stored_config
from ray_si.dedup import Deduplicator, GuardedGate
from ray_si.pipeline.contamination import excluded_texts, excluded_texts_of_run
from ray_si.pipeline.gate import guarded
from ray_si.pipeline.instances import contaminated
from ray_si.records import Instance
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.manifests import by_set, count_contaminated, from_by_set
from ray_si.run.run import Run
from tests.builds import replay_values

QUESTION = (
    "Melina sells a third of her apples in the morning and half of the rest after lunch. She has "
    "ten left. With how many did she begin?"
)
PREAMBLE = (
    "You are a patient teacher of mathematics who writes down every step of a solution, explains "
    "it to a child of ten, and ends with a line that holds nothing but the answer itself. "
)
SETS = [EvaluationSet("school", [QUESTION]), EvaluationSet("other", ["How do volcanoes sing?"])]


def config(**values):
    return parse_config(replay_values() | {"decontaminate": ["school", "other"]} | values)


def reasons(instances, **values):
    found = contaminated("Solve it.", instances, excluded_texts(config(**values), SETS))
    return {place: (row["reason"], row["source"]) for place, row in found.items()}


def test_each_part_of_an_instance_has_its_reason():
    instances = [
        Instance(QUESTION, "40"),
        Instance(PREAMBLE + QUESTION, "40"),
        Instance("Sell apples.", f"{PREAMBLE}{QUESTION} She began with 40."),
        Instance("Sell apples.", "how do volcanoes sing"),
        Instance(PREAMBLE, "40"),
        Instance("", ""),
    ]
    assert reasons(instances) == {
        0: ("contaminated", "school"),
        1: ("contaminated_within", "school"),
        2: ("contaminated_output", "school"),
        3: ("contaminated_output", "other"),
    }


def test_without_ngrams_only_whole_texts_are_compared():
    instances = [Instance(QUESTION, "40"), Instance(PREAMBLE + QUESTION, "40")]
    assert reasons(instances, decontaminate_ngram=False) == {0: ("contaminated", "school")}


@pytest.mark.parametrize(("words", "is_found"), [(8, True), (24, False), (None, False)])
def test_an_instruction_that_holds_a_question_is_refused_by_the_gate(words, is_found):
    settings = config(decontaminate_ngram=words, dedup={"cosine": None})
    gate = guarded(Deduplicator(0.9, None), settings, SETS)
    assert isinstance(gate, GuardedGate)
    text = PREAMBLE + " ".join(QUESTION.split()[2:20])
    result = gate.filter([text, "Name a river."])
    told = [(d.index, d.reason, d.source, d.match) for d in result.rejected]
    assert told == ([(0, "contaminated_within", "school", QUESTION)] if is_found else [])


def test_rejections_are_counted_by_set_and_kind():
    rows = [
        {"reason": "contaminated", "source": "a"},
        {"reason": "contaminated_within", "source": "a"},
        {"reason": "contaminated_output", "source": "b"},
        {"reason": "contaminated_output", "source": "b"},
        {"reason": "rouge", "source": None},
    ]
    counts = count_contaminated(rows, "instances")
    nested = {"a": {"embedded": 1, "instances": 1}, "b": {"outputs": 2}}
    assert by_set(counts) == nested
    assert from_by_set(nested, "instances") == counts
    assert from_by_set({"a": 3}, "instructions") == Counter({("a", "instructions"): 3})


def test_a_run_that_took_anothers_place_is_held_against_its_own_sets(tmp_path):
    location = str(tmp_path / "run")
    for place, item in enumerate(SETS):
        header = {"config": {}, "identity": {}, "decontaminate": [item.name]}
        run = Run.prepare(location, header, f"fingerprint-{place}")
        with run.held():
            run.create([], [item])
        excluded = excluded_texts_of_run(config(), location, run.header["fingerprint"])
        found = excluded.find([item.texts[0] for item in SETS])
        assert [match.source for match in found] == [item.name]
        shutil.rmtree(location)


def test_a_run_that_began_without_ngrams_goes_on_without_them():
    values = replay_values() | {"decontaminate": ["school"]}
    before = parse_config(values).model_dump(mode="json")
    del before["decontaminate_ngram"]
    assert stored_config(before).decontaminate_ngram is None
    resumed = parse_config(values).as_begun(before)
    assert resumed.decontaminate_ngram is None
    assert "decontaminate_ngram" not in resumed.identity()
    chosen = parse_config(values | {"decontaminate_ngram": 13})
    assert chosen.as_begun(before).decontaminate_ngram == 13
    assert chosen.identity() != resumed.identity()


def test_without_sets_it_is_no_part_of_what_a_run_is():
    ten, off = (parse_config(replay_values() | {"decontaminate_ngram": n}) for n in (10, False))
    assert ten.identity() == off.identity()
