"""What follows from a round's requests is found wrong wherever it is changed, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_si.audit.candidate_checks import (
    DemonstrationCheck,
    check_candidates,
    check_counts,
    check_ids,
)
from ray_si.config.file import parse_config
from ray_si.run.audit import Check
from tests.audit.conftest import SEEDS


def changed(rows, **values):
    return [rows[0] | values, *rows[1:]]


def findings(rounds, **changes):
    """Of the second round, with rows changed."""
    config, _, stored = rounds
    round_, raw = stored[1]
    round_ = replace(round_, **changes)
    check = Check("candidates")
    check_counts(check, round_)
    check_candidates(check, config, round_, raw)
    check_ids(check, round_)
    return check.findings


def test_a_sound_round_has_no_finding(rounds):
    assert not findings(rounds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], ["says accepted", "was lost"]),
        (lambda rows: [*rows, rows[-1]], ["is there twice"]),
        (lambda rows: rows[::-1], ["out of order"]),
        (lambda rows: changed(rows, instruction="Another text."), ["another text"]),
        (lambda rows: changed(rows, request_seed=1), ["another request_seed"]),
        (lambda rows: changed(rows, demonstrations=[]), ["another demonstrations"]),
        (lambda rows: changed(rows, mean_logprob=-9.0), ["another mean_logprob"]),
        (lambda rows: changed(rows, instance={"input": "", "output": "x"}), ["another instance"]),
        (lambda rows: changed(rows, id="r00009-00000-00"), ["another id or round"]),
        (lambda rows: changed(rows, round=7), ["another id or round"]),
        (lambda rows: changed(rows, position=77), ["no candidate of any completion"]),
    ],
)
def test_a_changed_accepted_row_is_found(rounds, change, words):
    found = findings(rounds, accepted=change(rounds[2][1][0].accepted))
    for part in words:
        assert any(part in finding for finding in found), found


@pytest.mark.parametrize(
    ("reason", "words"),
    [("too_short", "which it is not"), (None, "says rejected")],
)
def test_a_candidate_rejected_for_another_reason_is_found(rounds, reason, words):
    rows = rounds[2][1][0].rejected
    gated = next(row for row in rows if row["reason"] in ("rouge", "cosine"))
    others = [row for row in rows if row is not gated]
    replaced = [*others, gated | {"reason": reason}] if reason else others
    replaced.sort(key=lambda row: (row["request_id"], row["position"]))
    assert any(words in finding for finding in findings(rounds, rejected=replaced))


def look_at(rounds, *, change=lambda raw: raw, regated=False):
    config, _, stored = rounds
    check = DemonstrationCheck(config, SEEDS, regated=regated)
    for round_, raw in stored:
        check.look_at(round_, change(raw))
        check.extend(round_)
    return check.check


def test_demonstrations_are_what_seeds_draw_from_the_pool_of_their_time(rounds):
    check = look_at(rounds)
    assert check.ok
    assert check.count == 8 * sum(len(raw) for _, raw in rounds[2])


def test_other_demonstrations_than_the_seed_draws_are_found(rounds):
    def change(raw):
        return [raw[0] | {"demonstrations": raw[0]["demonstrations"][::-1]}, *raw[1:]]

    assert "what its seed draws" in look_at(rounds, change=change).findings[0]
    assert look_at(rounds, change=change, regated=True).ok  # all were in the pool


@pytest.mark.parametrize("regated", [False, True])
def test_a_demonstration_from_later_than_the_lookahead_allows_is_found(rounds, regated):
    latest = rounds[2][-1][0].accepted[0]["id"]

    def change(raw):
        return changed(raw, demonstrations=[latest, *raw[0]["demonstrations"][1:]])

    check = look_at(rounds, change=change, regated=regated)
    assert f"was prompted with {latest}, which was not in the pool by then" in check.findings[0]


def test_a_regated_run_was_prompted_with_what_its_filters_refuse_now(rounds):
    """As another tokenizer counts other words."""

    def refused(round_):
        rows = [
            {name: row[name] for name in ("request_id", "position")}
            | {"text": row["instruction"], "reason": "too_long"}
            for row in round_.accepted
        ]
        return replace(round_, accepted=[], rejected=rows)

    config, audit, stored = rounds
    stored = [(refused(round_), raw) for round_, raw in stored]
    assert look_at((config, audit, stored), regated=True).ok


def test_the_configuration_says_what_a_candidate_is(rounds):
    config, _, stored = rounds
    values = config.model_dump(mode="json")
    values["bootstrap"]["min_words"] = 15
    stricter, check = parse_config(values), Check("candidates")
    check_candidates(check, stricter, *stored[0])
    assert any("but is too_short" in finding for finding in check.findings)
