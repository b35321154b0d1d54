"""A decision of the gate that is changed, or has other scores, is found by the gate it is of."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from ray_si.audit.gate_checks import CosineCheck, EvaluationSetCheck, RougeCheck
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.schemas import ACCEPTED
from tests.audit.conftest import SEEDS


def gates(config, sets=()):
    return {
        "sets": EvaluationSetCheck(config, sets),
        "rouge": RougeCheck(config, SEEDS),
        "cosine": CosineCheck(config, SEEDS, regated=False),
    }


def findings(rounds, change=lambda stored: stored, *, sets=()):
    """Findings by gate, each round changed before it is looked at."""
    config, _, stored = rounds
    checks = gates(config, sets)
    for round_, _ in stored:
        for gate in checks.values():
            gate.look_at(change(round_))
    return {name: gate.check.findings for name, gate in checks.items() if gate.check.findings}


def on_first(reason, /, **values):
    """Changes the first row that was rejected for a reason, in every round."""

    def change(stored):
        rows = list(stored.rejected)
        places = [i for i, row in enumerate(rows) if row["reason"] == reason]
        if places:
            rows[places[0]] = rows[places[0]] | values
        return replace(stored, rejected=rows)

    return change


def test_decisions_as_they_were_taken_have_no_finding(rounds):
    assert not findings(rounds)


@pytest.mark.parametrize(
    ("change", "gate", "words"),
    [
        (on_first("rouge", score=0.99), "rouge", "not 0.99 with"),
        (on_first("rouge", match="Nothing of the kind."), "rouge", 'with "Nothing of the kind."'),
        (on_first("cosine", reason="rouge"), "rouge", "is close to nothing"),
        (on_first("rouge", reason="target_reached"), "rouge", "is too close: ROUGE-L"),
        (on_first("cosine", score=0.5), "cosine", "has cosine 0.5, not above 0.9"),
        (on_first("cosine", score=1.2), "cosine", "has cosine 1.2, not above 0.9"),
        (on_first("cosine", match="x"), "cosine", "matches what was not in the pool by then"),
        (on_first("rouge", reason="cosine", score=0.95), "cosine", "refused by ROUGE-L"),
        (on_first("rouge", reason="contaminated"), "sets", "matches what is in no evaluation set"),
        (on_first("rouge", reason="contaminated_within"), "sets", "holds nothing of"),
    ],
)
def test_a_changed_rejection_is_found_by_its_gate(rounds, change, gate, words):
    found = findings(rounds, change)
    assert any(words in finding for finding in found[gate]), found


@pytest.mark.parametrize(
    ("values", "gate", "words"),
    [
        ({"mean_rouge": 0.5}, "rouge", "has other neighbours"),
        ({"most_similar": None}, "rouge", "has other neighbours"),
        ({"cosine": -0.99}, "cosine", "says cosine -0.99"),
        ({"cosine": None}, "cosine", "says cosine None"),
        ({"instruction": SEEDS[0].instruction}, "rouge", "is too close: ROUGE-L 1.0000"),
    ],
)
def test_a_changed_acceptance_is_found_by_its_gate(rounds, values, gate, words):
    def change(stored):
        *first, last = stored.accepted or [{}]
        return replace(stored, accepted=[*first, last | values] if last else [])

    found = findings(rounds, change)
    assert any(words in finding for finding in found[gate]), found


def test_decisions_of_the_exact_index_are_those_of_the_flat_one(rounds, rounds_of_exact_index):
    assert not findings(rounds_of_exact_index)
    for (exact, _), (flat, _) in zip(rounds_of_exact_index[2], rounds[2], strict=True):
        assert exact.rejected == flat.rejected
        assert [row | {"cosine": None} for row in flat.accepted] == exact.accepted


def test_a_cosine_that_the_exact_index_cannot_know_is_found(rounds_of_exact_index):
    def change(stored):
        return replace(stored, accepted=[row | {"cosine": 0.3} for row in stored.accepted])

    found = findings(rounds_of_exact_index, change)["cosine"]
    assert all("says cosine 0.3, which the exact index does not measure" in f for f in found)


def test_embeddings_that_are_too_close_or_none_are_found(rounds):
    place = ACCEPTED.get_field_index("embedding")
    kind = ACCEPTED.field("embedding").type

    def with_embeddings(make):
        def change(stored):
            rows = stored.table["embedding"].to_pylist()
            column = pa.array(make(rows), kind)
            return replace(stored, table=stored.table.set_column(place, "embedding", column))

        return findings(rounds, change)["cosine"]

    assert any(
        "is too close: cosine 1.0000" in f for f in with_embeddings(lambda v: v[:1] * len(v))
    )
    assert all("no sound embeddings" in f for f in with_embeddings(lambda v: [None] * len(v)))


def test_an_evaluation_text_that_an_instruction_resembles_is_found(rounds):
    text = rounds[2][0][0].accepted[0]["instruction"]
    found = findings(rounds, sets=[EvaluationSet("held out", [text])])
    assert "is too close to held out: ROUGE-L 1.0000" in found["sets"][0]


def test_an_evaluation_text_inside_an_instruction_is_found(rounds):
    config = rounds[0]
    row = max(rounds[2][0][0].accepted, key=lambda row: len(row["instruction"].split()))
    inside = " ".join(row["instruction"].split()[-9:])  # rather long to be alike as a whole
    sets = [EvaluationSet("held out", [f"{inside} {'and something else ' * 9}"])]
    values = config.model_copy(update={"decontaminate_ngram": 8})
    assert (
        "is too close to held out: share 0."
        in findings((values, *rounds[1:]), sets=sets)["sets"][0]
    )
    off = config.model_copy(update={"decontaminate_ngram": None})
    assert "sets" not in findings((off, *rounds[1:]), sets=sets)


def test_a_rejection_for_an_evaluation_text_has_the_match_that_is_found_again(rounds):
    config, _, stored = rounds
    row = next(row for row in stored[0][0].rejected if row["reason"] == "rouge")
    sets = [EvaluationSet("held out", [row["text"]])]
    contaminated = {"reason": "contaminated", "match": row["text"], "score": 1.0}

    def of(source):
        def change(item):
            return item | contaminated | {"source": source} if item is row else item

        round_ = replace(stored[0][0], rejected=[change(item) for item in stored[0][0].rejected])
        check = EvaluationSetCheck(config, sets)
        check.look_at(round_)
        return "matches held out otherwise than it says" in " ".join(check.check.findings)

    assert not of("held out")
    assert of("another")
