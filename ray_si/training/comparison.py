"""What an evaluation came to: every model's scores, and how they differ, as JSON and Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ray_si.training.config import Evaluation
from ray_si.training.scores import Estimate, estimate, exact_match, resampled, rouge_l
from ray_si.training.tasks import Example, digest

METRICS = {"rouge_l": "ROUGE-L", "exact_match": "exact match"}

Answer = Mapping[str, Any]
"""A stored answer: text, finish_reason, error."""

Scores = dict[str, list[float]]
"""Metric -> one score for each example, in [0, 1]."""


def score_answers(examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
    """Scores of one model's answers, in the order of the examples."""
    pairs = list(zip(examples, answers, strict=True))
    return {
        "rouge_l": [rouge_l(a["text"], e.references) for e, a in pairs],
        "exact_match": [exact_match(a["text"], e.references) for e, a in pairs],
    }


def compare(
    options: Evaluation,
    examples: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """What report.json says (docs/finetuning.md). ``answers`` are by model, the first is the base.

    ``left_out`` says how many examples were not asked, and why.
    """
    tasks = [example.task for example in examples]
    scores = {name: score_answers(examples, given) for name, given in answers.items()}
    base = next(iter(scores))

    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        rows_of[task].append(row)

    def estimated(values: Sequence[float], of: Sequence[str]) -> dict[str, float | None]:
        return _estimate(values, of, options).as_dict()

    def of_model(name: str) -> dict[str, Any]:
        by_metric, given = scores[name], answers[name]
        by_task = {
            task: {"instances": len(rows)}
            | {m: estimated([by_metric[m][i] for i in rows], [task] * len(rows)) for m in METRICS}
            for task, rows in rows_of.items()
        }
        return {
            "overall": {m: estimated(values, tasks) for m, values in by_metric.items()},
            "failed": sum(answer["finish_reason"] == "error" for answer in given),
            "cut_off": sum(answer["finish_reason"] == "length" for answer in given),
            "by_task": by_task,
        }

    def difference(name: str, metric: str) -> dict[str, float | None]:
        pairs = zip(scores[base][metric], scores[name][metric], strict=True)
        return estimated([after - before for before, after in pairs], tasks)

    return {
        "tasks": len(rows_of),
        "instances": len(examples),
        "left_out": dict(left_out),
        "examples_sha256": digest(examples),
        "intervals": {
            "confidence": options.confidence,
            "method": "percentile bootstrap",
            "resampled": resampled(tasks),
            "resamples": options.resamples,
            "seed": options.seed,
        },
        "models": {name: of_model(name) for name in scores},
        "differences": {
            name: {"from": base} | {metric: difference(name, metric) for metric in METRICS}
            for name in scores
            if name != base
        },
    }


def _estimate(values: Sequence[float], tasks: Sequence[str], options: Evaluation) -> Estimate:
    return estimate(
        values,
        tasks,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )


def to_markdown(report: Mapping[str, Any]) -> str:
    """A section with the overall scores, the differences, and how they were reckoned."""
    intervals = report["intervals"]
    percent = f"{100 * intervals['confidence']:g} %"
    lines = [
        "## Evaluation",
        "",
        f"{report['instances']} instances of {report['tasks']} tasks, greedy answers. Means over "
        f"instances in percent, with {percent} intervals ({intervals['method']}, "
        f"{intervals['resamples']} resamples of {intervals['resampled']}).",
        "",
        "| model | ROUGE-L | exact match | cut off at the limit | failed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, model in report["models"].items():
        cells = [interval(model["overall"][metric]) for metric in METRICS]
        lines.append(
            f"| {_cell(name)} | {cells[0]} | {cells[1]} | {model['cut_off']} | {model['failed']} |"
        )
    for name, difference in report["differences"].items():
        for metric, title in METRICS.items():
            value = difference[metric]
            lines += ["", f"{title}, {name} less {difference['from']}: {interval(value, '+')} "]
            lines[-1] += f"(paired; {verdict(value)})."
    for reason, count in report["left_out"].items():
        lines += ["", f"{count} instances were left out: {reason}."]
    return "\n".join(lines) + "\n"


def interval(value: Mapping[str, float | None], sign: str = "") -> str:
    """An estimate as text, such as "12.3 [10.1, 14.9]"."""
    text = format(value["mean"], f"{sign}.1f")
    if value["low"] is None:
        return text
    return f"{text} [{format(value['low'], f'{sign}.1f')}, {format(value['high'], f'{sign}.1f')}]"


def verdict(difference: Mapping[str, float | None]) -> str:
    """What the interval of a paired difference says, in words."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "too few instances to tell"
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "no difference that these instances show"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
