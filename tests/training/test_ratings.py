"""The page for raters, what it exports, and the agreement."""

from __future__ import annotations

import json
import re

import pytest

from ray_si.errors import TaskError
from ray_si.records import Instance
from ray_si.training.ratings import Rater, load_ratings, make_page, summarize
from ray_si.training.tasks import Example

EXAMPLES = [
    Example(f"t{i}#0", f"t{i}", f"Instruction {i}", Instance("", "right"), ("right",))
    for i in range(30)
]
MARKUP = "</script><script>alert(1)</script>"


def page(count=10, seed=0):
    answers = {
        name: [{"text": f"{MARKUP} {name[0]}{i}"} for i in range(30)] for name in ("alpha", "beta")
    }
    return make_page(EXAMPLES, answers, count=count, seed=seed, evaluation="e" * 64)


def data_of(html):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', html, re.S)[1])


def test_the_page_shows_each_answer_once_and_names_no_model():
    html, key = page()
    data = data_of(html)
    shown = [answer for item in data["items"] for answer in item["answers"]]
    assert len(data["items"]) == 10
    assert {answer["token"] for answer in shown} == set(key)
    assert len(key) == 20
    for answer in shown:
        entry = key[answer["token"]]
        number = entry["example"].removeprefix("t").removesuffix("#0")
        assert answer["text"] == f"{MARKUP} {entry['model'][0]}{number}"
    assert "alpha" not in html
    assert "beta" not in html


def test_answers_stand_in_an_order_that_does_not_give_the_model_away():
    html, key = page(count=30)
    first = [key[item["answers"][0]["token"]]["model"] for item in data_of(html)["items"]]
    assert 5 < first.count("alpha") < 25


def test_answers_cannot_break_out_of_the_page_and_nothing_is_loaded_from_elsewhere():
    html, _ = page()
    assert MARKUP not in html
    assert html.count("<script") == html.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", html)


def test_the_seed_draws_the_examples():
    assert page() == page()
    chosen = [item["instruction"] for item in data_of(page()[0])["items"]]
    assert chosen != [item["instruction"] for item in data_of(page(seed=1)[0])["items"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": "other"}, "rates the answers of another evaluation"),
        ({"ratings": {"unknown": "A"}}, "no answer unknown was on the page"),
        ({"ratings": {}}, "holds no rating"),
        ({"ratings": None}, "is no export of the rating page"),
        ({"ratings": {"TOKEN": "E"}}, "'E' is no grade"),
    ],
)
def test_other_exports_are_refused(tmp_path, change, message):
    _, key = page()
    token = next(iter(key))
    good = {"evaluation": "e" * 64, "rater": "Ann", "ratings": {token: "A"}}
    path = tmp_path / "ratings.json"
    path.write_text(json.dumps(good))
    assert load_ratings(str(path), "e" * 64, key) == Rater("Ann", {token: "A"})
    path.write_text(json.dumps(good | change).replace("TOKEN", token))
    with pytest.raises(TaskError, match=message):
        load_ratings(str(path), "e" * 64, key)


KEY = {f"{m}{i}": {"example": f"t{i}", "model": m} for m in ("x", "y") for i in range(4)}
"""Eight answers. Ann's and Bo's grades below agree on six."""
ANN = dict(zip(KEY, "AABBCCDD", strict=True))
BO = dict(zip(KEY, "AABBCCAA", strict=True))


def test_grades_are_counted_by_model_and_rater():
    found = summarize([Rater("Ann", ANN)], KEY)
    assert found["models"]["x"]["Ann"] == {"A": 2, "B": 2, "C": 0, "D": 0}
    assert found["models"]["y"]["Ann"] == {"A": 0, "B": 0, "C": 2, "D": 2}
    assert found["pairs"] == []
    assert found["krippendorff_alpha"] is None


def test_agreement_of_two_raters_is_that_of_a_reckoning_by_hand():
    (pair,) = summarize([Rater("Ann", ANN), Rater("Bo", BO)], KEY)["pairs"]
    # observed 6/8; by chance A 2*4, B 2*2, C 2*2, D 2*0 of 64
    assert pair["cohen_kappa"] == pytest.approx((6 / 8 - 16 / 64) / (1 - 16 / 64), abs=1e-4)
    # good: Ann 4 of 8, Bo 6 of 8, alike on 6
    assert pair["cohen_kappa_good_or_bad"] == pytest.approx((0.75 - 0.5) / 0.5, abs=1e-4)
    assert pair["both_rated"] == 8
    assert -1 < pair["spearman"] < 0.5


def test_perfect_agreement_is_one_and_what_is_undefined_is_none():
    same = summarize([Rater("Ann", ANN), Rater("Bo", ANN), Rater("Cy", ANN)], KEY)
    assert all(p["cohen_kappa"] == p["spearman"] == 1 for p in same["pairs"])
    assert len(same["pairs"]) == 3
    assert same["krippendorff_alpha"] == {"nominal": 1, "ordinal": 1}
    flat = dict.fromkeys(KEY, "A")
    alike = summarize([Rater("Ann", flat), Rater("Bo", flat)], KEY)
    assert alike["pairs"][0] == {
        "raters": ["Ann", "Bo"],
        "both_rated": 8,
        "cohen_kappa": None,
        "cohen_kappa_good_or_bad": None,
        "spearman": None,
    }
    assert alike["krippendorff_alpha"] == {"nominal": None, "ordinal": None}


def test_alpha_takes_missing_ratings_and_counts_near_grades_as_nearer():
    part = {token: grade for token, grade in BO.items() if token.startswith("y")}
    near = {token: "ABCD"[min("ABCD".index(g) + 1, 3)] for token, g in ANN.items()}
    found = summarize([Rater("Ann", ANN), Rater("Bo", part), Rater("Cy", near)], KEY)
    alpha = found["krippendorff_alpha"]
    assert alpha["nominal"] < alpha["ordinal"] < 1
    apart = summarize([Rater("Ann", ANN), Rater("Bo", {"x0": "A"})], KEY)
    assert apart["pairs"][0]["both_rated"] == 1
    nothing = summarize([Rater("Ann", {"x0": "A"}), Rater("Bo", {"y0": "A"})], KEY)
    assert nothing["pairs"][0]["cohen_kappa"] is None
