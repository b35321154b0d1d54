"""Verbs about what rows are worth: score, select."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_si.cli.common import (
    USE,
    Address,
    Overrides,
    RunPath,
    app,
    errors_as_exits,
    interruptible,
)
from ray_si.cli.output import Steps, console
from ray_si.config.file import read_values
from ray_si.config.scores import ScoreSection, scores_of
from ray_si.errors import ConfigError

if TYPE_CHECKING:
    from ray_si.run.run import Run
    from ray_si.scores.job import ScoreSummary
    from ray_si.scores.subset import Selected

ScoresAt = Annotated[
    str | None,
    typer.Option("--scores", metavar="DIR", help="Where the scores are \\[default: RUN/scores]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\nray-si score runs/mine length checks\n\n"
    "ray-si score runs/mine --config scores.yaml --to s3://scores/mine\n\n"
    "ray-si score runs/mine judge --set judge.generator.model=Qwen/Qwen2.5-7B-Instruct "
    "--set judge.generator.gpus=1 --address auto\n\n"
    "ray-si score runs/mine mine --set mine.kind=function --set mine.path=scorers:politeness",
)
def score(
    run: RunPath,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Scores to compute \\[default: all that are configured]."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR", help="Where to store them \\[default: RUN/scores]."),
    ] = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Score all answers to the rows' inputs, for export --format preference --by.",
        ),
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML whose section scores says what to compute \\[default: the run's].",
        ),
    ] = None,
    set_: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's rows; the same command goes on where it was stopped.

    A score is a column beside the run and changes nothing in it. What cannot be scored is counted,
    with the reason, and kept. A name that is not configured stands for the kind of that name with
    its default settings.
    """
    kept = "the blocks that are finished are kept; the same command goes on from there."
    with errors_as_exits(), interruptible(kept):
        from ray_si.build.scoring import score_run
        from ray_si.run.run import Run

        opened = Run.open(run)
        sections = _sections(opened, names or [], config, set_ or [])
        with Steps() as steps:
            summaries = score_run(
                opened,
                sections,
                to,
                of_answers=answers,
                address=address,
                listen=steps.listen,
                notify=steps.note,
            )
        if as_json:
            typer.echo(json.dumps([asdict(summary) for summary in summaries], indent=2))
        else:
            _print_scores(summaries)


def _sections(
    run: Run, names: list[str], config: str | None, overrides: list[str]
) -> dict[str, ScoreSection]:
    """Settings of the scores that are asked for."""
    own = {"scores": run.header["config"].get("scores") or {}}
    values = read_values(config, [f"scores.{override}" for override in overrides], own)
    given = values.get("scores") or {}
    if not isinstance(given, dict):
        raise ConfigError("scores: write a mapping of names to settings")
    chosen = {name: given.get(name) for name in names} if names else given
    if not chosen:
        raise ConfigError("name a score: the configuration has no section scores")
    return scores_of(chosen)


def _print_scores(summaries: list[ScoreSummary]) -> None:
    for summary in summaries:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.unscored.items())
        line = f"{summary.name}: {summary.scored} of {summary.rows} rows scored"
        line += f", others: {reasons}" if reasons else ""
        console().print(f"{line}; {summary.folder}", markup=False, highlight=False)


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    'ray-si select runs/mine --by "judge >= 4 and checks" --top 5000 --per-cluster '
    "--to runs/best\n\n"
    'ray-si select runs/mine --by checks --rank "reward - length / 100" --top 1000 --diverse 0.9 '
    "--to runs/best\n\n"
    'ray-si select runs/mine --by "logprob > -1.5 or is_classification" --to runs/likely',
)
def select(
    run: RunPath,
    to: Annotated[str, typer.Option("--to", metavar="RUN2", help="Folder of the new run.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="CONDITION",
            help="What rows must hold: scores by name, numbers, and, or, not, < <= > >= == !=, "
            "+ - * /.",
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(metavar="N", help="Take exactly so many.")] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="What --top goes by \\[default: the mean of the ranks in each score of --by].",
        ),
    ] = None,
    per_cluster: Annotated[
        bool,
        typer.Option("--per-cluster", help="As many from each cluster of similar instructions."),
    ] = False,
    diverse: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            help="Pass over rows whose instruction is nearer than that to a better one's.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the control, of ties and of the clusters.")
    ] = 0,
    scores: ScoresAt = None,
    as_json: AsJson = False,
) -> None:
    """Choose rows by their scores and write them as a run, and as many random ones beside.

    RUN2 holds the chosen rows and RUN2-random, the control, as many drawn from all rows of RUN: a
    selection is worth something where training on it does better than on the other. Nothing of RUN
    is changed. A row without a score that the condition needs does not hold it, and is counted.
    """
    with errors_as_exits(), interruptible(f"{to} may be incomplete: delete it and select again"):
        from ray_si.run.run import Run
        from ray_si.scores import subset

        result = subset.select(
            Run.open(run), to, by=by, top=top, rank=rank, per_cluster=per_cluster,
            diverse=diverse, seed=seed, scores_at=scores,
        )  # fmt: skip
        if as_json:
            typer.echo(json.dumps(asdict(result), indent=2))
        else:
            _print_selected(result)


def _print_selected(result: Selected) -> None:
    counts = [f"{result.passed} hold the condition"]
    if result.unknown:
        counts.append(f"{result.unknown} lack a score for it")
    if result.alike:
        counts.append(f"{result.alike} too like a better one")
    for line in (
        f"{result.chosen} of {result.rows} rows, of {result.instructions} instructions: "
        f"{result.location}",
        f"as many random rows, the control: {result.control}",
        "; ".join(counts),
    ):
        console().print(line, markup=False, highlight=False)
