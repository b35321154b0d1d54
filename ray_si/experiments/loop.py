"""From seed tasks to evidence in one job: build, fine-tune, evaluate before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from ray_si.build import builder
from ray_si.config import RunConfig
from ray_si.config.file import find_inputs, parse_config, parse_section, read_values
from ray_si.engines import bundled, registry
from ray_si.errors import ConfigError, RunError, SeedError
from ray_si.experiments.evaluate import EvaluateConfig, EvaluationProgress, evaluate
from ray_si.experiments.extras import need
from ray_si.experiments.finetune import TrainingProgress, finetune
from ray_si.pipeline.progress import Progress
from ray_si.records import SeedTask
from ray_si.run.folder import check_outside, is_run
from ray_si.run.seeds import load_seeds
from ray_si.storage.base import Objects, absolute
from ray_si.storage.objects import open_objects
from ray_si.training.base import choose_encoding, inspect
from ray_si.training.comparison import to_markdown
from ray_si.training.config import Training
from ray_si.training.hold_out import split_seeds
from ray_si.training.tasks import BUNDLED, load_examples

LoopProgress = Progress | TrainingProgress | EvaluationProgress
"""Of the part of a loop that runs: "build", "training" or "evaluation"."""

_LOADED = "revision", "trust_remote_code"
"""What of a model tuning and asking must agree on."""


@dataclass(frozen=True)
class LoopConfig:
    """The three parts of a loop."""

    build: RunConfig
    training: Training
    evaluation: EvaluateConfig


def load_loop(path: str, overrides: list[str] | tuple[str, ...] = ()) -> LoopConfig:
    """A run's configuration with the sections ``training`` and ``evaluation``, which may lack.

    The model to tune is the build's generator, without an adapter, unless ``training.model`` names
    one. The evaluation is hosted as the build's generator is unless ``evaluation.generator`` says
    how, and loads the revision that is tuned. Both have to be said where the generator is a replay.
    Raises ConfigError.
    """
    values = read_values(path, overrides)
    training, evaluation = (
        _mapping(values.pop(name, None), name, path) for name in ("training", "evaluation")
    )
    given = _mapping(evaluation.get("generator"), "evaluation.generator", path)
    config = find_inputs(parse_config(values, path), path)
    generator = config.generator
    if generator.engine == "replay" and not training.get("model"):
        raise ConfigError(f"{path}: the generator is a replay, so training.model is needed")
    training = training | {"model": training.get("model") or generator.model}
    if training["model"] == generator.model:
        training = {name: getattr(generator, name) for name in _LOADED} | training
    hosting: dict[str, Any] = {}
    if generator.engine != "replay":
        hosting = generator.model_dump(exclude={"sampling", *_LOADED})
        hosting["vllm"]["lora"] = None
    hosting |= {name: training[name] for name in _LOADED if name in training}
    sections = {"training": training, "evaluation": evaluation | {"generator": hosting | given}}
    return LoopConfig(
        config,
        _section(Training, sections, "training", path),
        _section(EvaluateConfig, sections, "evaluation", path),
    )


def _mapping(section: object, name: str, path: str) -> dict[str, Any]:
    """A section's values, none where it is not there."""
    if not isinstance(section := section or {}, dict):
        raise ConfigError(f"{path}: {name} is not a section")
    return section


def _section(kind: type[Any], sections: dict[str, dict[str, Any]], name: str, path: str) -> Any:
    section: BaseModel = parse_section(kind, sections[name], f"{path}, {name}")
    return section


def run_loop(
    config: LoopConfig,
    to: str,
    *,
    tasks: list[str] | None = None,
    address: str | None = None,
    listen: Callable[[str, LoopProgress], None] = lambda part, progress: None,
) -> dict[str, Any]:
    """Build, fine-tune and evaluate into ``to``/build, /training and /evaluation; goes on if cut.

    ``tasks`` are as for `evaluate`. Where they are "bundled", the default, or it is among them, the
    seed tasks are split (`split_seeds`): the build gets one part, the evaluation the other. Else
    the build gets them all. All that is evaluated on is an evaluation set of the build, so that no
    row comes near it, and none of the build's seed tasks is evaluated on.
    A place that holds something else than a loop is refused.
    Returns what ``to``/loop.json says; ``to``/README.md says it in words. Raises what its parts do;
    what can be known to be wrong with any part is raised before the first one starts.
    """
    # what can be known to be wrong with any part
    need("trl", "peft", "datasets", "rouge_score", "scipy")
    tasks = tasks or [BUNDLED]
    chosen, held_out = split_for(config, tasks)
    load_examples([path for path in tasks if path != BUNDLED], 1)
    if "://" in to:
        raise ConfigError(f"{to}: a loop needs a folder, from which models can be loaded")
    objects = open_objects(to)
    objects.check(write=True)
    root = absolute(to).rstrip("/")
    _check_place(objects, root)
    _check_model(config.training)

    # build
    built = build_apart(
        config,
        f"{root}/build",
        tasks,
        address=address,
        listen=lambda progress: listen("build", progress),
    )

    # tune on its rows
    tuned = finetune(
        f"{root}/build",
        f"{root}/training",
        config.training,
        address=address,
        listen=lambda progress: listen("training", progress),
    )

    # ask both models the tasks
    report = evaluate(
        {"before": str(config.training.model), "after": tuned.model},
        tasks,
        f"{root}/evaluation",
        config.evaluation,
        seeds=config.build.seeds,
        address=address,
        listen=lambda progress: listen("evaluation", progress),
    )

    # say what came of it, in words and last as loop.json
    card = {
        "seeds": {"build": len(chosen), "held_out": [seed.id for seed in held_out]},
        "model": config.training.model,
        "build": {name: built.stats[name] for name in ("candidates", "accepted", "rows")},
        "training": tuned.result,
        "evaluation": report,
    }
    objects.put("README.md", _markdown(card).encode())
    objects.put("loop.json", (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    return card


def _check_place(objects: Objects, root: str) -> None:
    """Raise RunError unless a loop can be begun or continued here.

    Its build is there from the start, and its README.md at the end; others' files are left alone.
    """
    check_outside(root)

    def has(key: str) -> bool:
        return next(objects.list(key), None) == key

    is_begun = is_run(f"{root}/build") or all(key.startswith("build/") for key in objects.list())
    is_ended = has("evaluation/report.json") or has("loop.json")
    if not is_begun or (has("README.md") and not is_ended):
        raise RunError(f"{root} is not empty and not a loop; choose another --to")


def _check_model(training: Training) -> None:
    """Raise EngineError where `finetune` would refuse the model."""
    model = training.model or ""
    registry.check_model(model, training.revision)
    base = inspect(
        bundled.resolve(model),
        revision=training.revision,
        trust_remote_code=training.trust_remote_code,
    )
    choose_encoding(training.encoding, base.tokenizer, model)


def split_for(config: LoopConfig, tasks: list[str]) -> tuple[list[SeedTask], list[SeedTask]]:
    """Seed tasks to build with, and those held out, none where "bundled" is not among the tasks.

    Raises SeedError where they are too few for both.
    """
    seeds, _ = load_seeds(config.build.seeds)
    if BUNDLED not in tasks:
        return seeds, []
    chosen, held_out = split_seeds(seeds)
    if not (chosen and held_out):
        raise SeedError("too few seed tasks to hold some out for the evaluation: give --tasks")
    return chosen, held_out


def build_apart(
    config: LoopConfig,
    location: str,
    tasks: list[str],
    *,
    address: str | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
) -> builder.BuildResult:
    """Build from the seed tasks that are not held out, away from all that is evaluated on."""
    chosen, held_out = split_for(config, tasks)
    with TemporaryDirectory() as scratch:
        files = {"seeds": chosen, "held-out": held_out}
        paths = {name: Path(scratch) / f"{name}.jsonl" for name in files}
        for name, seeds in files.items():
            lines = [json.dumps(asdict(seed), ensure_ascii=False) + "\n" for seed in seeds]
            paths[name].write_text("".join(lines), encoding="utf-8")
        kept_out = [str(paths["held-out"]) if path == BUNDLED else path for path in tasks]
        sets = tuple(dict.fromkeys([*config.build.decontaminate, *kept_out]))
        apart = {"seeds": str(paths["seeds"]), "decontaminate": sets}
        return builder.build(
            config.build.model_copy(update=apart), location, address=address, listen=listen
        )


def _markdown(card: dict[str, Any]) -> str:
    """The card: what was built, how it was trained on, both evaluations."""
    build, training, seeds = card["build"], card["training"], card["seeds"]
    rows = training["rows"]
    split = "the evaluation's tasks are others, and no row is near them"
    if seeds["held_out"]:
        split = (
            f"{len(seeds['held_out'])} others were kept for the evaluation, and away from every row"
        )
    return "\n".join(
        [
            f"# {card['model']}, tuned on what it was prompted with",
            "",
            "## Data",
            "",
            f"{build['accepted']} instructions of {build['candidates']} candidates, "
            f"{build['rows']} rows, from {seeds['build']} seed tasks; {split}.",
            "",
            "## Training",
            "",
            f"{rows['kept']} of {rows['rows']} rows ({rows['dropped']} too long and dropped, "
            f"{rows['truncated']} truncated), {training['steps']} steps (epochs: "
            f"{training['epochs']:g}). Mean loss of the first tenth of the logged steps "
            f"{training['first_loss']}, of the last {training['last_loss']}.",
            "",
            to_markdown(card["evaluation"]),
        ]
    )
