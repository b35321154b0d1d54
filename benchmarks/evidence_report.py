"""What the arms of benchmarks/evidence.py came to: scores, differences, costs, a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ray_si.experiments.evaluate import EvaluateConfig
from ray_si.training.scores import against_references, estimate, paired_p

HERE = Path(__file__).parent
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


def plot(result: Mapping[str, Any]) -> None:
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
    figure.savefig(PLOT, metadata={"Date": None})
    pyplot.close(figure)
