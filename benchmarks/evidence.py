"""Does training on a run's rows make a better model? Five arms, several seeds each.

    python benchmarks/evidence.py CONFIG --to FOLDER [--set KEY=VALUE] [--tasks FILE] [--write]
    python benchmarks/evidence.py --plot          draw evidence.svg from the result that is kept

Arms: ``untuned``, the model as it is; ``seeds``, trained on the seed tasks alone; ``rows``, on all
rows of the run; ``selected``, on those that pass ``--by``, best first by ``--rank``; ``random``, on
as many of the run's rows drawn at random, without which a selection shows nothing. The last two are
there where a selection is asked for. CONFIG is that of `ray-si loop`: a run's with the sections
``training`` and ``evaluation``, so that the same command takes two cores and a small model
(benchmarks/evidence.yaml), or a cluster and a large one (``--address``). The run is built away from
all that is evaluated on; a finished one (``--run``) is taken as it is, and tasks near its rows are
left out. With ``--sample N`` only N tasks of each JSONL file are asked, drawn by lot. All arms
train with the same settings, ``training.max_steps`` where it is set; each of ``--seeds`` orders the
rows anew.

What is finished is kept in FOLDER, whatever ends the process; the same command goes on. With
``--minutes`` it stops by itself, with status 3, after the training or the model whose answers were
under way by then, so that a long measurement can share a machine.

An arm's score on a task is the mean over its seeds; intervals and tests are over tasks, as those of
`ray-si evaluate`, and say nothing of other seeds, which ``by_seed`` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import evidence_report
import pyarrow as pa

from ray_si.build.scoring import score_run
from ray_si.config.scores import scores_of
from ray_si.experiments.evaluate import EvaluationProgress, evaluate
from ray_si.experiments.finetune import finetune
from ray_si.experiments.loop import LoopConfig, build_apart, load_loop
from ray_si.experiments.unseen import unseen
from ray_si.export.training_lines import Source
from ray_si.run.evaluation import texts_of_item
from ray_si.run.run import Run
from ray_si.run.seeds import seeds_of
from ray_si.scores.subset import CONTROL, select
from ray_si.training.tasks import BUNDLED, load_examples

ARMS = ("untuned", "seeds", "rows", "selected", "random")
RESULT = Path(__file__).with_suffix(".json")
_TEXTS = ("instruction", "input")
_UNFINISHED = 3


class OutOfTimeError(Exception):
    """``--minutes`` have passed, and what was under way is stored."""


class Clock:
    """Seconds that the parts of the measurement took, over all calls, and when this one is to end.

    They are in ``path``, and are added up when a part ends, by an error or an interrupt included.
    """

    def __init__(self, path: Path, minutes: float | None) -> None:
        self._path, self._end = path, time.monotonic() + 60 * (minutes or float("inf"))
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.seconds[name] = round(spent, 1)
            self._path.write_text(json.dumps(self.seconds))

    def check(self) -> None:
        """OutOfTimeError where it is."""
        if time.monotonic() > self._end:
            raise OutOfTimeError


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


def data_of(
    root: Path, run: Run, config: LoopConfig, options: argparse.Namespace
) -> dict[str, str]:
    """Where each arm's rows are; scores are those that the configuration names."""
    places = {"seeds": str(root / "seeds"), "rows": run.location}
    seeds_alone(run, places["seeds"])
    if {"selected", "random"} & set(options.arms):
        places |= {"selected": str(root / "selected"), "random": f"{root / 'selected'}{CONTROL}"}
        if not (Path(places["random"]) / "stats.json").exists():
            score_run(run, scores_of(config.build.scores), address=options.address)
            top = options.top or run.stats()["rows"] // 2
            select(run, places["selected"], by=options.by, rank=options.rank, top=top)
    return places


def tuned(
    root: Path,
    config: LoopConfig,
    places: dict[str, str],
    options: argparse.Namespace,
    clock: Clock,
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Models by name, ARM-SEED, and what the trainings of each arm came to."""
    models: dict[str, str] = {}
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    for seed in range(options.seeds):
        settings = config.training.model_copy(update={"seed": seed})
        for arm in (arm for arm in options.arms if arm != "untuned"):
            to = root / "models" / f"{arm}-{seed}"
            is_done = (to / "result.json").exists()
            with clock.part("training"):
                done = finetune(places[arm], str(to), settings, address=options.address)
            models[to.name] = done.model
            results[arm].append(done.result)
            if not is_done:
                print(f"{to.name}: {done.result['steps']} steps, {done.result['seconds']} s")
                clock.check()
    if "untuned" in options.arms:
        models = {"untuned": str(config.training.model)} | models
    return models, {arm: trained(of_arm) for arm, of_arm in results.items() if of_arm}


def trained(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the trainings of an arm came to, one for each seed."""
    first = results[0]
    every = ("first_loss", "last_loss")
    return {
        "rows": first["rows"]["kept"],
        "too_long": first["rows"]["dropped"],
        "tokens_of_an_epoch": first["rows"]["tokens"],
        "epochs": first["epochs"],
        "steps": first["steps"],
        "training_seconds": [result["seconds"] for result in results],
        **{name: [result[name] for result in results] for name in every},
    }


def sampled(
    root: Path, tasks: list[str], count: int | None, apart: Callable[[str], set[str]] | None
) -> tuple[list[str], int]:
    """The tasks, of each JSONL file no more than ``count``, drawn by lot and kept in ``root``.

    ``apart`` tells the ids of a file's tasks that may be asked; how many may not comes second.
    """
    places, near = [], 0
    for number, path in enumerate(tasks):
        if not path.endswith(".jsonl"):
            places.append(path)
            continue
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
        if apart is not None:
            ids = apart(path)
            near += len(lines) - len(ids)
            lines = [line for line in lines if json.loads(line)["id"] in ids]
        asked = min(count or len(lines), len(lines))
        drawn = sorted(random.Random(0).sample(range(len(lines)), asked))
        sample = root / f"tasks-{number}.jsonl"
        sample.write_text("".join(lines[i] for i in drawn), encoding="utf-8")
        places.append(str(sample))
    return places, near


def apart_from(run: Run, config: LoopConfig) -> Callable[[str], set[str]]:
    """Tells the ids of a file's tasks that resemble no row of a run, by the evaluation's gates."""
    rows = [row for table in Source(run).tables(_TEXTS) for row in table.to_pylist()]
    texts = {text for row in rows for text in texts_of_item(row["instruction"], [row["input"]])}

    def apart(path: str) -> set[str]:
        examples = load_examples([path], config.evaluation.instances_per_task)
        return {example.task for example in unseen(examples, sorted(texts), config.evaluation)}

    return apart


def told(clock: Clock) -> Callable[[EvaluationProgress], None]:
    """Says when a model's answers are there, and stops then if it is time."""

    def listen(progress: EvaluationProgress) -> None:
        if progress.total and progress.done == progress.total:
            print(f"{progress.model}: {progress.done} answers", flush=True)
            clock.check()

    return listen


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts, or those that are missing, in order."""
    config = load_loop(options.config, options.set)
    root, tasks = Path(options.to).absolute(), options.tasks or [BUNDLED]
    root.mkdir(parents=True, exist_ok=True)
    clock = Clock(root / "seconds.json", options.minutes)
    if options.run is None:
        with clock.part("build"):
            build_apart(config, str(root / "run"), tasks, address=options.address)
    run = Run.open(options.run or str(root / "run"))
    stats = run.stats()
    with clock.part("scores and selection"):
        places = data_of(root, run, config, options)
    clock.check()
    models, trainings = tuned(root, config, places, options, clock)
    with clock.part("evaluation"):
        apart = None if options.run is None else apart_from(run, config)
        asked, near_rows = sampled(root, tasks, options.sample, apart)
        report = evaluate(
            models, asked, str(root / "evaluation"), config.evaluation,
            seeds=config.build.seeds, address=options.address, listen=told(clock),
        )  # fmt: skip
    arms = evidence_report.arms_of(report, options.arms, config.evaluation)
    for arm, of_arm in arms.items():
        arms[arm] = trainings.get(arm, {}) | of_arm
        arms[arm]["cost_of_a_point"] = evidence_report.cost_of_a_point(arms[arm])
    return {
        "machine": {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[2], 1)},
        "config": options.config,
        "set": options.set,
        "model": config.training.model,
        "method": config.training.method,
        "seeds": options.seeds,
        "run": {
            "built_apart": options.run is None,
            "tasks_near_rows": near_rows,
            **{name: stats[name] for name in ("rows", "candidates", "accepted", "spent")},
        },
        "selection": {"by": options.by, "rank": options.rank},
        "sample": options.sample,
        "tasks": report["tasks"],
        "instances": report["instances"],
        "left_out": report["left_out"],
        "reference_words": report["reference_words"],
        "intervals": report["intervals"],
        "seconds": clock.seconds,
        "minutes": round(sum(clock.seconds.values()) / 60, 1),
        "arms": arms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", nargs="?", help="configuration of a loop")
    parser.add_argument("--to")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tasks", action="append", help="as for `ray-si loop`")
    parser.add_argument("--sample", type=int, help="tasks of each JSONL file that are asked [all]")
    parser.add_argument("--run", help="a finished run whose rows are trained on, not a new one")
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by", help="expression that selected rows pass")
    parser.add_argument("--rank", help="expression by which the best come first")
    parser.add_argument("--top", type=int, help="rows that are selected [half]")
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--minutes", type=float, help="stop after what is under way by then")
    parser.add_argument("--write", action="store_true", help="keep the result beside this script")
    parser.add_argument("--plot", action="store_true", help="draw the result that is kept")
    options = parser.parse_args()
    if not options.plot and not (options.config and options.to):
        parser.error("CONFIG and --to are needed")
    options.arms = options.arms or (ARMS if options.by or options.rank else ARMS[:3])
    if not options.plot:
        try:
            text = json.dumps(measure(options), indent=2)
        except OutOfTimeError:
            print("time is up; the same command goes on")
            sys.exit(_UNFINISHED)
        print(text)
        if options.write:
            RESULT.write_text(text + "\n", encoding="utf-8")
    if options.plot or options.write:
        evidence_report.plot(json.loads(RESULT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
