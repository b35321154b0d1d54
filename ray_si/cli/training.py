"""Verbs downstream of the shards: finetune, evaluate, ratings, loop."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ray_si.cli.common import (
    TRAIN,
    Address,
    ConfigPath,
    Overrides,
    RunPath,
    app,
    errors_as_exits,
    interruptible,
)
from ray_si.cli.training_output import (
    EvaluationDisplay,
    LoopDisplay,
    TrainingDisplay,
    print_evaluation,
    print_loop,
    print_ratings,
    print_training,
)
from ray_si.config.file import parse_section, read_values
from ray_si.errors import ConfigError

ToFolder = Annotated[
    str, typer.Option("--to", metavar="DIR", help="Folder, or s3://bucket/prefix, to write into.")
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="YAML with further settings.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    rich_help_panel=TRAIN,
    epilog="[b]Examples[/b]\n\n"
    "ray-si finetune runs/mine --model Qwen/Qwen2.5-7B --to models/mine --workers 8 "
    "--set gpu=true --set parallel=fsdp --address auto\n\n"
    "ray-si finetune runs/quickstart --model smollm2-135m-instruct --to models/small "
    "--set cpus=2 --set epochs=1",
)
def finetune(
    run: RunPath,
    model: Annotated[
        str, typer.Option("--model", help="To tune: bundled, a folder, or on the hub.")
    ],
    to: ToFolder,
    workers: Annotated[int | None, typer.Option("--workers", help="Ray Train workers.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Tune a model on a finished run's rows; the same command goes on after any crash.

    Adapters (LoRA) by default, merged at the end; method=full trains all weights. Loss is taken on
    the outputs only. DIR/model loads with from_pretrained, and as generator.model of a build.
    """
    kept = f"checkpoints are kept in {to}. The same command goes on from the last one."
    with errors_as_exits(), interruptible(kept):
        from ray_si.experiments.finetune import finetune as finetune_run
        from ray_si.training.config import Training

        values = read_values(config, set_ or []) | {"model": model}
        if workers is not None:
            values["workers"] = workers
        settings = parse_section(Training, values, config or "settings")
        with TrainingDisplay() as display:
            done = finetune_run(run, to, settings, address=address, listen=display.listen)
        if as_json:
            typer.echo(json.dumps({"model": done.model, **done.result}, indent=2))
        else:
            print_training(done)


@app.command(
    rich_help_panel=TRAIN,
    epilog="[b]Examples[/b]\n\n"
    "ray-si evaluate --model before=smollm2-135m-instruct --model after=models/small/model "
    "--tasks tasks/ --to evaluation\n\n"
    "ray-si evaluate --model models/mine/model --benchmark super-ni "
    "--tasks natural-instructions --to evaluation "
    "--set generator.replicas=8 --set generator.gpus=1 --address auto",
)
def evaluate(
    model: Annotated[
        list[str],
        typer.Option("--model", metavar="[NAME=]MODEL", help="Repeat to compare with the first."),
    ],
    to: ToFolder,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="FILE",
            help="Super-NaturalInstructions task (.json), a folder of them, or JSONL in the seed "
            "schema; repeat for more \\[default: the built-in seed tasks that are held out].",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="NAME",
            help="super-ni or super-ni-crosslingual (--tasks: the published folder), user-oriented "
            "(--tasks: the paper's 252), ifeval (--tasks: its input_data.jsonl); asked and scored "
            "as published.",
        ),
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Ask models the same tasks and compare their answers: ROUGE-L, exact match, intervals.

    Answers are greedy and stored as they come, so that the same command goes on after a crash, and
    with another --model asks only that one. DIR/rate.html is a page to rate them blind.
    """
    kept = f"answers are kept in {to}. The same command goes on from there."
    with errors_as_exits(), interruptible(kept):
        from ray_si.experiments import evaluate as evaluation
        from ray_si.training.tasks import BUNDLED

        settings = parse_section(
            evaluation.EvaluateConfig, read_values(config, set_ or []), config or "settings"
        )
        with EvaluationDisplay() as display:
            report = evaluation.evaluate(
                _by_name(model),
                tasks or [BUNDLED],
                to,
                settings,
                benchmark=benchmark,
                address=address,
                listen=display.listen,
            )
        if as_json:
            typer.echo(json.dumps(report, indent=2))
        else:
            print_evaluation(to, report)


@app.command(
    rich_help_panel=TRAIN,
    epilog="[b]Example[/b]\n\nray-si ratings evaluation ratings-ann.json ratings-bo.json",
)
def ratings(
    evaluation: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder that `ray-si evaluate` wrote.")
    ],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="What raters exported from rate.html.")
    ],
    as_json: AsJson = False,
) -> None:
    """Count the grades that raters gave, by model, and say how far the raters agree."""
    with errors_as_exits():
        from ray_si.experiments.evaluate import rate

        result = rate(evaluation, files)
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            print_ratings(result)


@app.command(
    rich_help_panel=TRAIN,
    epilog="[b]Example[/b]\n\nray-si loop configs/loop.yaml --to loops/first "
    "--set training.epochs=1",
)
def loop(
    config: ConfigPath,
    to: ToFolder,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="FILE",
            help="Evaluate on these instead of the seed tasks that are held out; as for evaluate.",
        ),
    ] = None,
    set_: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Build a dataset, tune a model on it, and evaluate it before and after, in one job.

    CONFIG is a run's configuration that may have the sections `training` and `evaluation` too. A
    quarter of the seed tasks of each kind is kept from the build and evaluated on. DIR/README.md
    says what it came to; the same command goes on after any crash.
    """
    kept = f"what is finished is kept in {to}. The same command goes on from there."
    with errors_as_exits(), interruptible(kept):
        from ray_si.experiments import loop as loops

        settings = loops.load_loop(config, set_ or [])
        with LoopDisplay() as display:
            card = loops.run_loop(settings, to, tasks=tasks, address=address, listen=display.listen)
        if as_json:
            typer.echo(json.dumps(card, indent=2))
        else:
            print_loop(to, card)


def _by_name(models: list[str]) -> dict[str, str]:
    """Name -> model, of NAME=MODEL, or of a model alone, which is its own name.

    A name has no slash, so that a path may have an equals sign.
    """
    found: dict[str, str] = {}
    for text in models:
        name, equals, model = text.partition("=")
        if "/" in name:
            name, equals, model = text, "", ""
        if equals and not model:
            raise ConfigError(f"--model {text}: write NAME=MODEL")
        if name in found:
            raise ConfigError(f"--model {text}: there is another model of this name")
        found[name] = model or name
    return found
