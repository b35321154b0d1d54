"""What an evaluation came to: every model's scores, and how they differ, as JSON and Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

from ray_si.training.config import Evaluation
from ray_si.training.scores import (
    Estimate,
    Measure,
    against_references,
    estimate,
    paired_p,
    resampled,
)
from ray_si.training.tasks import Example, digest

Answer = Mapping[str, Any]
"""A stored answer: text, finish_reason, error."""

Scores = dict[str, list[Sequence[float]]]
"""Metric -> of each example one score, or one for each of its parts, in [0, 1]."""

_SAME_STOP = "_same_stop"


def score_answers(
    examples: Sequence[Example], answers: Sequence[Answer], measure: Measure
) -> Scores:
    """Scores of one model's answers, in the order of the examples."""
    scored = [measure.score(e, a["text"]) for e, a in zip(examples, answers, strict=True)]
    return {metric: [one[metric] for one in scored] for metric in measure.titles}


def compare(
    options: Evaluation,
    examples: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    left_out: Mapping[str, int],
    measure: Measure | None = None,
) -> dict[str, Any]:
    """What report.json says (docs/finetuning.md). ``answers`` are by model, the first is the base.

    ``left_out`` says how many examples were not asked, and why. Without a ``measure`` answers are
    held against references.
    """
    measure = measure or against_references()
    tasks = [example.task for example in examples]
    scores = {name: score_answers(examples, given, measure) for name, given in answers.items()}
    base = next(iter(scores))
    every = range(len(examples))

    def estimated(
        values: Sequence[float], of: Sequence[str], *, paired: bool = False
    ) -> dict[str, float | None]:
        return _estimate(values, of, options, paired=paired).as_dict()

    def of_parts(name: str, metric: str, rows: Sequence[int]) -> tuple[list[float], list[str]]:
        """Scores of the parts of these examples, and the task of each."""
        parts = [(score, tasks[i]) for i in rows for score in scores[name][metric][i]]
        return [score for score, _ in parts], [task for _, task in parts]

    def grouped(name: str, groups: Sequence[str]) -> dict[str, Any]:
        """Scores of the examples of each task, or category."""
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, group in enumerate(groups):
            rows_of[group].append(row)
        return {
            group: {"instances": len(rows)}
            | {m: estimated(*of_parts(name, m, rows)) for m in measure.titles}
            for group, rows in rows_of.items()
        }

    def of_model(name: str) -> dict[str, Any]:
        given = answers[name]
        is_cut = [float(answer["finish_reason"] == "length") for answer in given]
        categories = [example.category for example in examples]
        by_category = {"by_category": grouped(name, categories)} if any(categories) else {}
        return {
            "overall": {m: estimated(*of_parts(name, m, every)) for m in measure.titles},
            "failed": sum(answer["finish_reason"] == "error" for answer in given),
            "cut_off": int(sum(is_cut)),
            "cut_off_share": estimated(is_cut, tasks),
            "words": round(fmean(len(answer["text"].split()) for answer in given), 1),
            **by_category,
            "by_task": grouped(name, tasks),
        }

    def difference(name: str, metric: str) -> dict[str, float | None]:
        (before, of), (after, _) = (of_parts(model, metric, every) for model in (base, name))
        changes = [new - old for old, new in zip(before, after, strict=True)]
        p = paired_p(changes, of, resamples=options.resamples, seed=options.seed)
        return estimated(changes, of, paired=True) | {"p": None if p is None else round(p, 4)}

    return {
        "tasks": len(set(tasks)),
        "instances": len(examples),
        "left_out": dict(left_out),
        "examples_sha256": digest(examples),
        "metrics": dict(measure.titles),
        "reference_words": round(fmean(len(e.references[0].split()) for e in examples), 1),
        "intervals": {
            "confidence": options.confidence,
            "method": "percentile bootstrap",
            "exact": "Clopper-Pearson, for shares of independent instances and at 0 and 100 %",
            "test": "permutation of signs",
            "resampled": resampled(tasks),
            "resamples": options.resamples,
            "seed": options.seed,
        },
        "models": {name: of_model(name) for name in scores},
        "differences": {
            name: {"from": base} | {metric: difference(name, metric) for metric in measure.titles}
            for name in scores
            if name != base
        },
    }


def _estimate(
    values: Sequence[float], tasks: Sequence[str], options: Evaluation, *, paired: bool
) -> Estimate:
    return estimate(
        values,
        tasks,
        paired=paired,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )


def to_markdown(report: Mapping[str, Any]) -> str:
    """A section with the overall scores, the differences, and how sure they are."""
    intervals = report["intervals"]
    percent = f"{100 * intervals['confidence']:g} %"
    metrics = report["metrics"]
    same_stop = (
        "At the same stop means that each answer is cut to as many words as its reference has "
        f"({report['reference_words']} in the mean)."
    )
    lines = [
        "## Evaluation",
        "",
        *_benchmark(report),
        f"{report['instances']} instances of {report['tasks']} tasks, greedy answers. Means over "
        f"instances in percent, with {percent} intervals ({intervals['method']}, "
        f"{intervals['resamples']} resamples of {intervals['resampled']}; {intervals['exact']}). "
        + (same_stop if any(metric.endswith(_SAME_STOP) for metric in metrics) else ""),
        "",
        f"| model | {' | '.join(metrics.values())} | words | cut off at the limit | failed |",
        "| --- |" + " --- |" * (len(metrics) + 3),
    ]
    for name, model in report["models"].items():
        cells = [interval(model["overall"][metric]) for metric in metrics]
        cells += [f"{model['words']}", f"{interval(model['cut_off_share'])} %"]
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} | {model['failed']} |")
    for name in report["differences"]:
        lines += ["", *differences(report, name), "", f"**How sure:** {how_sure(report, name)}"]
    lines += _categories(report)
    for reason, count in report["left_out"].items():
        lines += ["", f"{count} instances were left out: {reason}."]
    return "\n".join(lines) + "\n"


def _benchmark(report: Mapping[str, Any]) -> list[str]:
    """Which benchmark it is, and whether scores may be held against published ones."""
    if "benchmark" not in report:
        return []
    benchmark = report["benchmark"]
    shown = benchmark.get("positive_examples")
    how = "" if shown is None else f", with {shown or 'no'} positive examples"
    not_all = "" if benchmark["complete"] else "; not all of it, so no number for the benchmark"
    return [f"Benchmark: {benchmark['about']}{how}{not_all}.", ""]


def differences(report: Mapping[str, Any], name: str) -> list[str]:
    """A line for each metric: what a model's score is less the first model's."""
    difference = report["differences"][name]
    return [
        f"{title}, {name} less {difference['from']}: {interval(difference[metric], '+')} "
        f"(paired, p = {_p(difference[metric]['p'])}; {verdict(report, name, metric)})."
        for metric, title in report["metrics"].items()
    ]


def how_sure(report: Mapping[str, Any], name: str) -> str:
    """In plain words, whether a model is better than the first one, by the first metric."""
    difference, tasks = report["differences"][name], report["tasks"]
    first = next(iter(report["metrics"]))
    base, value = difference["from"], difference[first]
    if value["p"] is None:
        return f"one task does not tell whether {name} or {base} is better."
    shown = verdict(report, name, first)
    if shown in ("higher", "lower"):
        text = (
            f"{name} is {'better' if value['mean'] > 0 else 'worse'} than {base} on tasks like "
            f"these: were both equally good, so large a difference would come up in "
            f"{_share(value['p'])} of such evaluations."
        )
    else:
        text = (
            f"these {tasks} tasks do not tell whether {name} or {base} is better: were both "
            f"equally good, so large a difference would come up in {_share(value['p'])} of such "
            f"evaluations. So few tasks show differences from about "
            f"{detectable(value, report['intervals']['confidence']):.0f} points on."
        )
    same_stop = first + _SAME_STOP
    if same_stop in difference and verdict(report, name, same_stop) != shown:
        text += (
            f" With both at the same stop it is {interval(difference[same_stop], '+')}: how long "
            "answers are is part of the difference."
        )
    return text


def detectable(difference: Mapping[str, float | None], confidence: float) -> float:
    """The least difference, in points, that such an evaluation shows four times out of five.

    From the standard error that the interval's width stands for: (1.96 + 0.84) of them at 95 %.
    """
    low, high = difference["low"], difference["high"]
    assert low is not None
    assert high is not None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (high - low) / (2 * z) * (z + NormalDist().inv_cdf(0.8))


def interval(value: Mapping[str, float | None], sign: str = "") -> str:
    """An estimate as text, such as "12.3 [10.1, 14.9]"."""
    text = format(value["mean"], f"{sign}.1f")
    if value["low"] is None:
        return text
    return f"{text} [{format(value['low'], f'{sign}.1f')}, {format(value['high'], f'{sign}.1f')}]"


def verdict(report: Mapping[str, Any], name: str, metric: str) -> str:
    """What interval and test of a paired difference say, in words; they have to agree."""
    value, confidence = report["differences"][name][metric], report["intervals"]["confidence"]
    low, high, p = value["low"], value["high"], value["p"]
    if p is None:
        return "too few instances to tell"
    if p < 1 - confidence and not low <= 0 <= high:
        return "higher" if low > 0 else "lower"
    return "no difference that these instances show"


def _categories(report: Mapping[str, Any]) -> list[str]:
    """A table of scores by category, where examples have one."""
    models = report["models"]
    first = next(iter(models.values())).get("by_category", {})
    lines = []
    if first:
        lines = ["", f"| category | metric | {' | '.join(map(_cell, models))} |"]
        lines.append("| --- | --- |" + " --- |" * len(models))
    for category in first:
        for metric, title in report["metrics"].items():
            if metric.endswith(_SAME_STOP):
                continue
            cells = [interval(model["by_category"][category][metric]) for model in models.values()]
            lines.append(f"| {category} | {title} | {' | '.join(cells)} |")
    return lines


def _p(p: float | None) -> str:
    return "unknown" if p is None else "under 0.001" if p < 0.001 else f"{p:.3f}"


def _share(p: float) -> str:
    return "less than one in a hundred" if p < 0.01 else f"{round(100 * p)} of a hundred"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
