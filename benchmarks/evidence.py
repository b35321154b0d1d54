"""Does training on a run's rows make a better model? Five arms, several seeds each.

    python benchmarks/evidence.py CONFIG --to FOLDER [--set KEY=VALUE] [--tasks FILE] [--write]

Arms: ``untuned``, the model as it is; ``seeds``, trained on the seed tasks alone; ``rows``, on all
rows of the run; ``selected``, on those that pass ``--by``, best first by ``--rank``; ``random``, on
as many of the run's rows drawn at random, without which a selection shows nothing. The last two are
there where a selection is asked for. CONFIG is that of `ray-si loop`: a run's with the sections
``training`` and ``evaluation``, so that the same command takes two cores and a small model, or a
cluster and a large one (``--address``). The run is built away from what is evaluated on. All arms
train with the same settings, ``training.max_steps`` where it is set; each of ``--seeds`` orders the
rows anew. What is finished is kept in FOLDER; the same command goes on.

An arm's score on a task is the mean over its seeds; intervals and tests are over tasks, as those of
`ray-si evaluate`, and say nothing of other seeds, which ``by_seed`` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from ray_si.config.scores import scores_of
from ray_si.experiments.evaluate import EvaluateConfig, evaluate
from ray_si.experiments.finetune import finetune
from ray_si.experiments.loop import LoopConfig, build_apart, load_loop
from ray_si.run.run import Run
from ray_si.run.seeds import seeds_of
from ray_si.scores.compute import compute
from ray_si.scores.subset import CONTROL, select
from ray_si.training.comparison import METRICS
from ray_si.training.scores import estimate, paired_p
from ray_si.training.tasks import BUNDLED

ARMS = ("untuned", "seeds", "rows", "selected", "random")
SCORES = ("length", "checks")
"""Kinds of scores that are computed for every row, for ``--by`` and ``--rank`` to name."""


def seeds_alone(source: Run, location: str) -> Run:
    """A run whose rows are the instances of the seed tasks of another."""
    seeds = seeds_of(source.read("seeds.parquet"))
    rows = [
        {"id": f"{seed.id}#{i}", "instruction": seed.instruction} | asdict(instance)
        for seed in seeds
        for i, instance in enumerate(seed.instances)
    ]
    header = {"config": source.header["config"], "identity": {}}
    run = Run.prepare(location, header, f"seeds of {source.header['fingerprint']}")
    if run.stats() is None:
        with run.held():
            run.create(seeds)
            shard = run.write_shard(0, 1, "parquet", pa.Table.from_pylist(rows))
            run.commit_stats({"rows": len(rows), "shards": [vars(shard)]})
    return run


def data_of(root: Path, run: Run, options: argparse.Namespace) -> dict[str, str]:
    """Where each arm's rows are."""
    places = {"seeds": str(root / "seeds"), "rows": run.location}
    seeds_alone(run, places["seeds"])
    if {"selected", "random"} & set(options.arms):
        places |= {"selected": str(root / "selected"), "random": f"{root / 'selected'}{CONTROL}"}
        if not (Path(places["random"]) / "stats.json").exists():
            compute(run, scores_of(dict.fromkeys(SCORES)))
            top = options.top or run.stats()["rows"] // 2
            select(run, places["selected"], by=options.by, rank=options.rank, top=top)
    return places


def tuned(
    root: Path, config: LoopConfig, places: Mapping[str, str], options: argparse.Namespace
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Models by name, ARM-SEED, and what the trainings of each arm came to."""
    models, trainings = {}, {}
    for arm in options.arms:
        results = []
        for seed in range(options.seeds if arm != "untuned" else 0):
            to = str(root / "models" / f"{arm}-{seed}")
            settings = config.training.model_copy(update={"seed": seed})
            done = finetune(places[arm], to, settings, address=options.address)
            models[f"{arm}-{seed}"] = done.model
            results.append(done.result)
            print(f"{arm}-{seed}: {done.result['steps']} steps, {done.result['seconds']} s")
        if results:
            trainings[arm] = {
                "rows": results[0]["rows"]["kept"],
                "tokens_of_an_epoch": results[0]["rows"]["tokens"],
                "epochs": results[0]["epochs"],
                "steps": results[0]["steps"],
                "training_seconds": [result["seconds"] for result in results],
                "last_loss": [result["last_loss"] for result in results],
            }
    if "untuned" in options.arms:
        models = {"untuned": str(config.training.model)} | models
    return models, trainings


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
            for other in {"untuned", "random"} & set(arms) - {arm}:
                before, _ = scores_by_task(models[other], metric)
                changes = [after - b for after, b in zip(scores, before, strict=True)]
                paired = estimate(
                    changes, tasks, confidence=options.confidence, paired=True, **how
                ).as_dict()
                p = {"p": round(paired_p(changes, tasks, **how) or 1.0, 4)}
                result[arm].setdefault(f"less_{other}", {})[metric] = paired | p
    return result


def cost_of_a_point(arm: Mapping[str, Any]) -> dict[str, float | None]:
    """Tokens and hours of training for each point of ROUGE-L gained, None without a gain."""
    gain = arm.get("less_untuned", {}).get("rouge_l", {}).get("mean", 0.0)
    if gain <= 0 or "training_seconds" not in arm:
        return {"tokens": None, "hours": None}
    tokens = arm["tokens_of_an_epoch"] * arm["epochs"]
    hours = fmean(arm["training_seconds"]) / 3600
    return {"tokens": round(tokens / gain), "hours": round(hours / gain, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="configuration of a loop, such as configs/loop.yaml")
    parser.add_argument("--to", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tasks", action="append", help="as for `ray-si loop`")
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by", help="expression that selected rows pass")
    parser.add_argument("--rank", help="expression by which the best come first")
    parser.add_argument("--top", type=int, help="rows that are selected [half]")
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--write", action="store_true", help="keep the result beside this script")
    options = parser.parse_args()
    options.arms = options.arms or (ARMS if options.by or options.rank else ARMS[:3])
    started = time.perf_counter()
    config = load_loop(options.config, options.set)
    root, tasks = Path(options.to).absolute(), options.tasks or [BUNDLED]
    built = build_apart(config, str(root / "run"), tasks, address=options.address)
    run = Run.open(str(root / "run"))
    print(f"run: {built.stats['rows']} rows, {time.perf_counter() - started:.0f} s")
    models, trainings = tuned(root, config, data_of(root, run, options), options)
    report = evaluate(
        models, tasks, str(root / "evaluation"), config.evaluation,
        seeds=config.build.seeds, address=options.address,
    )  # fmt: skip
    arms = arms_of(report, options.arms, config.evaluation)
    for arm, of_arm in arms.items():
        arms[arm] = trainings.get(arm, {}) | of_arm
        arms[arm]["cost_of_a_point"] = cost_of_a_point(arms[arm])
    result = {
        "machine": {"cores": os.cpu_count()},
        "config": options.config,
        "set": options.set,
        "model": config.training.model,
        "rows_of_the_run": built.stats["rows"],
        "selection": {"by": options.by, "rank": options.rank},
        "tasks": report["tasks"],
        "instances": report["instances"],
        "left_out": report["left_out"],
        "seconds_of_this_call": round(time.perf_counter() - started),
        "arms": arms,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
