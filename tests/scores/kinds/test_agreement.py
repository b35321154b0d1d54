"""How the other answers to an input agree with the one that became the row."""

from __future__ import annotations

import pytest

from ray_si.config.scores import scores_of
from ray_si.scores.kinds.agreement import Agreement


def scored(output, others, *, is_classification=False, **settings):
    row = {"output": output, "others": others, "is_classification": is_classification}
    [result] = Agreement(scores_of({"agreement": settings})["agreement"]).score([row])
    return result


def test_labels_agree_where_they_are_the_same_but_for_case_and_marks():
    others = ["positive", "Positive!", "negative", "I think it is positive"]
    assert scored("Positive.", others, is_classification=True).value == 0.5
    assert scored("Positive.", others, measure="exact").value == 0.5


@pytest.mark.parametrize(
    ("output", "equal", "other"),
    [
        ("-1", ["-1", "(-1).", "－1"], ["1", "+1", ".1"]),
        ("A+", ["a+", '"A+"'], ["A-", "A", "A*"]),
        ("C++", ["**C++**.", "`c++`"], ["C", "C#"]),
        ("x < 3", ["X  < 3"], ["x > 3", "x = 3", "x / 3"]),
        ("正面", ["正面。", "「正面」", "正面！"], ["负面"]),
        ("Straße", ["«STRASSE»"], ["Strase"]),
        ("0.5", ["0.5."], ["05", "-0.5"]),
        ("5", ["5."], [".5", "5%"]),
        ("?", [" ? "], ["!", ""]),
    ],
)
def test_labels_are_told_apart_by_signs_and_not_by_what_stands_around_them(output, equal, other):
    assert scored(output, equal, is_classification=True).value == 1
    assert scored(output, other, is_classification=True).value == 0


def test_texts_agree_by_rouge_l():
    assert scored("a b c d", ["a b c d"]).value == 1
    assert scored("a b c d", ["a b x y", "p q"]).value == pytest.approx(0.25)


def test_texts_agree_by_their_embeddings():
    near = scored("A cat sat down.", ["A cat was sitting."], measure="cosine").value
    far = scored("A cat sat down.", ["Taxes rose in spring."], measure="cosine").value
    assert far < 0.4 < near < 1


def test_one_answer_agrees_with_nobody():
    assert scored("a", []) == (None, "one_answer", None)
