"""A decision of the gate that is changed, or has other scores, is found by the gate it is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ray_si.audit.gate_checks import CosineCheck, EvaluationSetCheck, RougeCheck
from ray_si.pipeline.embeddings import InputEmbeddings, stored_inputs
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.schemas import ACCEPTED
from tests.audit.conftest import SEEDS


def looked_at(rounds, change=lambda stored: stored, *, sets=(), inputs=None):
    """The checks by gate, each round changed before it is looked at."""
    config, _, stored = rounds
    gates = {
        "sets": EvaluationSetCheck(config, sets),
        "rouge": RougeCheck(config, SEEDS),
        "cosine": CosineCheck(config, SEEDS, inputs),
    }
    for round_, _ in stored:
        for gate in gates.values():
            gate.look_at(change(round_))
    return {name: gate.check for name, gate in gates.items()}


def findings(rounds, change=lambda stored: stored, *, sets=()):
    inputs = stored_inputs(rounds[1].run, SEEDS, [])
    assert inputs is not None
    checks = looked_at(rounds, change, sets=sets, inputs=inputs)
    return {name: check.findings for name, check in checks.items() if check.findings}


def of_an_earlier_version(stored):
    """A round without the embeddings of what was refused."""
    return replace(stored, embeddings=None)


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
        (on_first("cosine", score=0.9001), "cosine", ", not 0.9001 with"),
        (
            on_first("cosine", match=SEEDS[0].instruction),
            "cosine",
            f'with "{SEEDS[0].instruction}"',
        ),
        (on_first("target_reached", reason="cosine"), "cosine", "is close to nothing"),
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


def test_without_embeddings_of_the_refused_decisions_have_no_finding_and_a_note(rounds):
    checks = looked_at(rounds, of_an_earlier_version)
    assert all(check.ok for check in checks.values())
    assert "seed tasks and of rejected candidates are not stored" in checks["cosine"].notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (on_first("cosine", score=0.5), "has cosine 0.5, not above 0.9"),
        (on_first("cosine", match="x"), "matches what was not in the pool by then"),
    ],
)
def test_without_embeddings_of_the_refused_what_cannot_be_is_found(rounds, change, words):
    checks = looked_at(rounds, lambda stored: of_an_earlier_version(change(stored)))
    assert any(words in finding for finding in checks["cosine"].findings)


@pytest.mark.parametrize(
    ("reason", "vector", "words"),
    [
        ("cosine", np.zeros(16), "is close to nothing"),
        ("target_reached", "first", "is too close: cosine 1.0000"),
    ],
)
def test_an_embedding_that_does_not_explain_the_rejection_is_found(rounds, reason, vector, words):
    first = rounds[2][0][0]
    near = first.embeddings[first.accepted[0]["id"]]

    def change(stored):
        ids = [candidate.id for candidate in stored.gated(reason) if candidate.reason == reason]
        changed = dict.fromkeys(ids, near if isinstance(vector, str) else vector)
        return replace(stored, embeddings=stored.embeddings | changed)

    assert any(words in finding for finding in findings(rounds, change)["cosine"])


def test_embeddings_that_are_too_close_or_none_are_found_in_runs_of_earlier_versions(rounds):
    place = ACCEPTED.get_field_index("embedding")
    kind = ACCEPTED.field("embedding").type

    def with_embeddings(make):
        def change(stored):
            rows = stored.table["embedding"].to_pylist()
            column = pa.array(make(rows), kind)
            table = stored.table.set_column(place, "embedding", column)
            return replace(stored, table=table, embeddings=None)

        return looked_at(rounds, change)["cosine"].findings

    assert any(
        "is too close: cosine 1.0000" in f for f in with_embeddings(lambda v: v[:1] * len(v))
    )
    assert all("no sound embeddings" in f for f in with_embeddings(lambda v: [None] * len(v)))


def test_an_evaluation_text_that_an_instruction_resembles_is_found(rounds):
    text = rounds[2][0][0].accepted[0]["instruction"]
    found = findings(rounds, sets=[EvaluationSet("held out", [text])])
    assert "is too close to held out: 1.0000 with" in found["sets"][0]


def test_a_cosine_with_an_evaluation_text_is_computed_again(rounds):
    config, _, stored = rounds
    first = stored[0][0]
    inputs = InputEmbeddings(np.zeros((0, 16)), first.embeddings[first.accepted[0]["id"]][None])
    check = EvaluationSetCheck(config, [EvaluationSet("held out", ["Quite another text."])], inputs)
    check.look_at(first)
    assert 'close to held out: 1.0000 with "Quite another text."' in check.check.findings[0]
    check = EvaluationSetCheck(config, [EvaluationSet("held out", ["Quite another text."])], inputs)
    match = {"match": "Quite another text.", "source": "held out", "score": 0.95}
    row = next(row for row in first.rejected if row["reason"] == "rouge")
    contaminated = row | match | {"reason": "contaminated"}
    rejected = [contaminated if item is row else item for item in first.rejected]
    check.look_at(replace(first, accepted=[], rejected=rejected))
    assert "is close to no evaluation text" in check.check.findings[0]


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
