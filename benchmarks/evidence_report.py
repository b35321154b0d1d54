"""What the arms of benchmarks/evidence.py came to: scores, differences, costs, plot and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ray_si.experiments.evaluate import EvaluateConfig
from ray_si.training.comparison import interval
from ray_si.training.scores import against_references, estimate, paired_p

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "evidence.md"
PLOT = HERE / "evidence.svg"
METRICS = against_references().titles
_BASES = ("untuned", "random")
"""Arms that the others are compared with."""

_ABOUT = {
    "untuned": "the model as it is",
    "seeds": "the seed tasks alone",
    "rows": "all rows of the run",
    "selected": "the selected rows",
    "random": "as many random rows",
}


def scores_by_task(models: Sequence[Mapping[str, Any]], metric: str) -> tuple[list, list]:
    """Scores in [0, 1], each task's mean over models once for each of its instances, and tasks."""
    scores, tasks = [], []
    for task, of_first in models[0]["by_task"].items():
        mean = fmean(model["by_task"][task][metric]["mean"] for model in models) / 100
        scores += [mean] * of_first["instances"]
        tasks += [task] * of_first["instances"]
    return scores, tasks


def arms_of(report: Mapping[str, Any], arms: Sequence[str], options: EvaluateConfig) -> Any:
    """What the arms came to, and how each differs from the untuned model and the random rows."""
    how = {"resamples": options.resamples, "seed": options.seed}
    models = {
        arm: [model for name, model in report["models"].items() if name.partition("-")[0] == arm]
        for arm in arms
    }
    result: dict[str, Any] = {}
    for arm, of_arm in models.items():
        result[arm] = {
            "by_seed": {m: [one["overall"][m]["mean"] for one in of_arm] for m in METRICS},
            "words": round(fmean(one["words"] for one in of_arm), 1),
            "cut_off_share": round(fmean(one["cut_off_share"]["mean"] for one in of_arm), 2),
        }
        for metric in METRICS:
            scores, tasks = scores_by_task(of_arm, metric)
            found = estimate(scores, tasks, confidence=options.confidence, **how)
            result[arm][metric] = found.as_dict()
            for other in [base for base in _BASES if base in arms and base != arm]:
                before, _ = scores_by_task(models[other], metric)
                changes = [after - b for after, b in zip(scores, before, strict=True)]
                paired = estimate(
                    changes, tasks, confidence=options.confidence, paired=True, **how
                ).as_dict()
                p = paired_p(changes, tasks, **how)
                paired["p"] = None if p is None else round(p, 4)
                result[arm].setdefault(f"less_{other}", {})[metric] = paired
    return result


def cost_of_a_point(arm: Mapping[str, Any]) -> dict[str, float | None]:
    """Tokens and hours of training for each point of ROUGE-L gained, None without a gain."""
    gain = arm.get("less_untuned", {}).get("rouge_l", {}).get("mean", 0.0)
    if gain <= 0 or "training_seconds" not in arm:
        return {"tokens": None, "hours": None}
    hours = fmean(arm["training_seconds"]) / 3600
    return {"tokens": round(tokens_trained(arm) / gain), "hours": round(hours / gain, 4)}


def tokens_trained(arm: Mapping[str, Any]) -> float:
    """Tokens that one training went over."""
    return float(arm["tokens_of_an_epoch"] * arm["epochs"])


def verdict(difference: Mapping[str, Any], confidence: float) -> str:
    """What interval and test say together."""
    low, high, p = difference["low"], difference["high"], difference["p"]
    if p is None:
        return "one task does not tell"
    if p < 1 - confidence and not low <= 0 <= high:
        return "higher" if low > 0 else "lower"
    return "no difference that these tasks show"


def write_page(result: Mapping[str, Any]) -> None:
    """Write docs/evidence.md and the plot."""
    plot(result, PLOT)
    PAGE.write_text(page(result), encoding="utf-8")


def page(result: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    arms, build = result["arms"], result["run"]
    percent = f"{100 * result['intervals']['confidence']:g} %"
    sample = f" ({result['sample']} of each file, drawn by lot)" if result["sample"] else ""
    tokens = {kind: f"{sum(phase.values()):,}" for kind, phase in _turned(build["spent"]).items()}
    apart = "kept away from all that is evaluated on"
    if not build["built_apart"]:
        apart = f"and {build['tasks_near_rows']} tasks near one of them are not evaluated on"
    selection = " ranked by ".join(
        f"`{text}`" for text in (result["selection"]["by"], result["selection"]["rank"]) if text
    )
    return "\n".join(
        [
            "# Are the rows worth training on?",
            "",
            "What [benchmarks/evidence.py](../benchmarks/evidence.py) found, written by it from",
            "[its result](../benchmarks/evidence.json). It says something of this model and this",
            "size only; the same command with another configuration says it of yours.",
            "",
            f"{result['model']} wrote {build['rows']} rows ({build['candidates']} candidates, "
            f"{build['accepted']} accepted; {tokens['prompt']} tokens read and "
            f"{tokens['completion']} written), {apart}. The same model was then "
            f"tuned ({result['method']}) on each arm's rows with the same settings, "
            f"{result['seeds']} times with other seeds. Selected are half of the rows, those with "
            f"{selection}." if selection else "",
            f"Evaluated on {result['instances']} instances of {result['tasks']} tasks{sample}, "
            f"greedy answers; an arm's score on a task is the mean over its seeds. Means in "
            f"percent with {percent} intervals over tasks. At the same stop, each answer is cut to "
            f"as many words as its reference has ({result['reference_words']} in the mean). All "
            f"of it took {result['minutes']:.0f} minutes on {result['machine']['cores']} cores, "
            f"whose load average over the last quarter of an hour was "
            f"{result['machine']['load_average']} at the end.",
            "",
            f"![ROUGE-L of the arms](../benchmarks/{PLOT.name})",
            "",
            "| trained on | rows | tokens gone over | ROUGE-L | ROUGE-L, same stop | exact match "
            "| words | cut off, % |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *[_scores(name, arm) for name, arm in arms.items()],
            "",
            *_differences(result),
            "",
            "| trained on | ROUGE-L by seed | last loss by seed | tokens a point | hours a point |",
            "| --- | --- | --- | --- | --- |",
            *[_costs(name, arm) for name, arm in arms.items() if name != "untuned"],
            "",
            "A point is one of ROUGE-L gained on the untuned model; tokens and hours are those of "
            "one training.",
            "",
        ]
    )  # fmt: skip


def _turned(spent: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Tokens by kind and phase, given by phase and kind."""
    kinds = ("prompt", "completion")
    return {kind: {phase: of[kind] for phase, of in spent.items()} for kind in kinds}


def _scores(name: str, arm: Mapping[str, Any]) -> str:
    cells = [_ABOUT[name], str(arm.get("rows", "")), ""]
    if "rows" in arm:
        cells[2] = f"{tokens_trained(arm):,.0f}"
    cells += [interval(arm[metric]) for metric in METRICS]
    return f"| {' | '.join([*cells, str(arm['words']), format(arm['cut_off_share'], '.1f')])} |"


def _differences(result: Mapping[str, Any]) -> list[str]:
    """A table of differences, and what each shows."""
    confidence = result["intervals"]["confidence"]
    lines = [
        "| trained on | less | ROUGE-L | p | | ROUGE-L, same stop | p | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for base in _BASES:
        for name, arm in result["arms"].items():
            found = arm.get(f"less_{base}")
            if not found or (base == "random" and name != "selected"):
                continue
            cells = [_ABOUT[name], _ABOUT[base]]
            for metric in ("rouge_l", "rouge_l_same_stop"):
                value = found[metric]
                p = "" if value["p"] is None else f"{value['p']:.3f}"
                cells += [interval(value, "+"), p, verdict(value, confidence)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _costs(name: str, arm: Mapping[str, Any]) -> str:
    cost = arm["cost_of_a_point"]
    none = "no gain"
    tokens = none if cost["tokens"] is None else f"{cost['tokens']:,}"
    hours = none if cost["hours"] is None else f"{cost['hours']:.4f}"
    scores = ", ".join(f"{value:.1f}" for value in arm["by_seed"]["rouge_l"])
    losses = ", ".join(f"{value:.2f}" for value in arm["last_loss"])
    return f"| {_ABOUT[name]} | {scores} | {losses} | {tokens} | {hours} |"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """ROUGE-L of each arm with its interval, and a dot for each seed, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ray_si"
    from matplotlib import pyplot

    arms = result["arms"]
    figure, axes = pyplot.subplots(figsize=(8, 3))
    for number, metric in enumerate(("rouge_l", "rouge_l_same_stop")):
        at = [place + (number - 0.5) / 4 for place in range(len(arms))]
        means = [arm[metric]["mean"] for arm in arms.values()]
        below, above = (
            [abs(arm[metric][bound] - arm[metric]["mean"]) for arm in arms.values()]
            for bound in ("low", "high")
        )
        axes.errorbar(
            at, means, [below, above], fmt="s", capsize=3, color=f"C{number}", label=METRICS[metric]
        )
        for place, arm in zip(at, arms.values(), strict=True):
            seeds = arm["by_seed"][metric]
            axes.plot([place + 0.06] * len(seeds), seeds, ".", color=f"C{number}", alpha=0.5)
    axes.set_xticks(range(len(arms)), [_ABOUT[name] for name in arms])
    axes.set(ylabel="percent", ylim=(0, None))
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
