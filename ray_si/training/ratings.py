"""Answers rated blind, A to D, by one person or several: the page, the counts, the agreement."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ray_si.errors import TaskError
from ray_si.training.tasks import Example

GRADES = {
    "A": "valid and satisfying",
    "B": "acceptable, with small flaws",
    "C": "about the instruction, but with grave mistakes",
    "D": "invalid, or about something else",
}
"""The paper's four levels (section 4.4), best first."""

_GOOD = {"A", "B"}

Key = dict[str, dict[str, str]]
"""Token on the page -> ``{"example": id, "model": name}``."""


@dataclass(frozen=True)
class Rater:
    """One person's grades, by token."""

    name: str
    grades: dict[str, str]


def make_page(
    examples: Sequence[Example],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    count: int,
    seed: int,
    evaluation: str,
) -> tuple[str, Key]:
    """A page that needs nothing but a browser, and the key to what it shows.

    ``count`` examples, drawn by ``seed``; the answers to each stand in an order of their own, under
    tokens that say nothing of the model. ``evaluation`` ties the exported grades to their key.
    """
    chosen = sorted(random.Random(seed).sample(range(len(examples)), min(count, len(examples))))
    key: Key = {}
    items = []
    for i in chosen:
        example = examples[i]
        tokens = {}
        for model, given in answers.items():
            text = json.dumps([evaluation, seed, example.id, model])
            token = hashlib.sha256(text.encode()).hexdigest()[:16]
            key[token] = {"example": example.id, "model": model}
            tokens[token] = given[i]["text"]
        items.append(
            {
                "instruction": example.instruction,
                "input": example.instance.input,
                "reference": example.references[0],
                "answers": [{"token": t, "text": tokens[t]} for t in sorted(tokens)],
            }
        )
    data = json.dumps({"evaluation": evaluation, "grades": GRADES, "items": items})
    template = files(__package__).joinpath("rate.html").read_text(encoding="utf-8")
    # "<" would let an answer end the script, or the page
    page = template.replace("{title}", escape(f"Rating {evaluation[:12]}"))
    return page.replace("{data}", data.replace("<", "\\u003c")), key


def load_ratings(path: str, evaluation: str, key: Key) -> Rater:
    """What the page exported. Raises TaskError where it is malformed or of another evaluation."""
    try:
        exported = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"cannot read the ratings {path}: {error.strerror}") from error
    except ValueError as error:
        raise TaskError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(exported, dict) or not isinstance(exported.get("ratings"), dict):
        raise TaskError(f"{path} is no export of the rating page: it has no ratings")
    if exported.get("evaluation") != evaluation:
        raise TaskError(f"{path} rates the answers of another evaluation")
    name = str(exported.get("rater") or Path(path).stem)
    grades = exported["ratings"]
    for token, grade in grades.items():
        if token not in key:
            raise TaskError(f"{path}: no answer {token} was on the page")
        if grade not in GRADES:
            raise TaskError(f"{path}: {grade!r} is no grade; they are {', '.join(GRADES)}")
    if not grades:
        raise TaskError(f"{path} holds no rating")
    return Rater(name, grades)


def summarize(raters: Sequence[Rater], key: Key) -> dict[str, Any]:
    """Counts of the grades by model and rater, and how far raters agree.

    Agreement: for each two raters, on what both rated, Cohen's kappa over the four grades and over
    good (A, B) against bad, and Spearman's rank correlation, as in the paper; over all raters
    Krippendorff's alpha, nominal and ordinal, which takes ratings that are missing. What cannot be
    computed (everything rated alike, say) is None.
    """
    models: dict[str, dict[str, dict[str, int]]] = {}
    for model in dict.fromkeys(entry["model"] for entry in key.values()):
        models[model] = {}
        for rater in raters:
            counts = Counter(g for t, g in rater.grades.items() if key[t]["model"] == model)
            models[model][rater.name] = {grade: counts[grade] for grade in GRADES}
    return {
        "raters": [rater.name for rater in raters],
        "models": models,
        "pairs": [_pair(a, b) for a, b in combinations(raters, 2)],
        "krippendorff_alpha": {
            level: _alpha(raters, list(key), level) for level in ("nominal", "ordinal")
        }
        if len(raters) > 1
        else None,
    }


def _pair(a: Rater, b: Rater) -> dict[str, Any]:
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    both = sorted(a.grades.keys() & b.grades.keys())
    ours, theirs = ([rater.grades[t] for t in both] for rater in (a, b))
    good = [[grade in _GOOD for grade in grades] for grades in (ours, theirs)]
    varied = len(set(ours)) > 1 and len(set(theirs)) > 1
    ranks = [[_rank(grade) for grade in grades] for grades in (ours, theirs)]
    return {
        "raters": [a.name, b.name],
        "both_rated": len(both),
        "cohen_kappa": _number(cohen_kappa_score(ours, theirs)) if _differ(ours, theirs) else None,
        "cohen_kappa_good_or_bad": _number(cohen_kappa_score(*good)) if _differ(*good) else None,
        "spearman": _number(spearmanr(*ranks).statistic) if varied else None,
    }


def _alpha(raters: Sequence[Rater], tokens: Sequence[str], level: str) -> float | None:
    import krippendorff

    table = np.array(
        [[_rank(r.grades[t]) if t in r.grades else np.nan for t in tokens] for r in raters]
    )
    shared = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return _number(krippendorff.alpha(reliability_data=table, level_of_measurement=level))


def _rank(grade: str) -> float:
    return float(list(GRADES).index(grade))


def _differ(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether more than one value occurs, without which kappa is not defined."""
    return len({*ours, *theirs}) > 1


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
