"""What the verbs downstream of the shards show."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from ray_si.cli.output import BuildDisplay, Display, console, duration
from ray_si.training.comparison import differences, how_sure, interval
from ray_si.training.ratings import GRADES

if TYPE_CHECKING:
    from ray_si.experiments.evaluate import EvaluationProgress
    from ray_si.experiments.finetune import Finetuned, TrainingProgress
    from ray_si.pipeline.progress import Progress


class _StepDisplay(Display):
    """A bar, or lines, for work that is counted under a title."""

    _columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self._began = (0.0, 0)

    def show(self, title: str, done: int, total: int, detail: str) -> None:
        """Take a new state; a new title begins a new bar."""
        changed, self._title = title != self._title, title
        if changed:
            self._began = (time.monotonic(), done)
        detail = ", ".join(filter(None, [detail, self._left(done, total)]))
        if self._bars is None:
            counts = f" {done}/{total}" if total else ""
            self._line(f"{title}{counts} {detail}".rstrip(), now=changed or not total)
            return
        if changed or self._task is None:
            self._task = self._bars.add_task(title, total=total or None, detail="")
        self._bars.update(self._task, completed=done, total=total or None, detail=detail)

    def _left(self, done: int, total: int) -> str:
        began, first = self._began
        if done <= first or done >= total:
            return ""
        seconds_left = (total - done) * (time.monotonic() - began) / (done - first)
        return f"about {duration(seconds_left)} left"


class TrainingDisplay(_StepDisplay):
    """Shows the `TrainingProgress` of a fine-tuning."""

    def listen(self, progress: TrainingProgress) -> None:
        """Take a new state."""
        if progress.note:
            self.show("train", 0, 0, progress.note)
        else:
            self.show("train", progress.step, progress.steps, f"loss {progress.loss:.3f}")


class EvaluationDisplay(_StepDisplay):
    """Shows the `EvaluationProgress` of an evaluation."""

    def listen(self, progress: EvaluationProgress) -> None:
        """Take a new state."""
        self.show(progress.model or "evaluate", progress.done, progress.total, progress.note)


_DISPLAYS = {
    "build": BuildDisplay,
    "training": TrainingDisplay,
    "evaluation": EvaluationDisplay,
}


class LoopDisplay:
    """Shows the progress of each part of a loop in turn."""

    def __init__(self) -> None:
        self._part = ""
        self._display: Any = None

    def __enter__(self) -> LoopDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._display:
            self._display.__exit__(None, None, None)

    def listen(self, part: str, progress: Progress | TrainingProgress | EvaluationProgress) -> None:
        """Take a new state of "build", "training" or "evaluation"."""
        if part != self._part or self._display is None:
            self.__exit__()
            self._part = part
            self._display = _DISPLAYS[part]().__enter__()
        self._display.listen(progress)


def print_training(done: Finetuned) -> None:
    """What a fine-tuning came to, and where the model is."""
    from ray_si.training.encode import REFUSALS

    result, rows = done.result, done.result["rows"]
    table = Table(title="Summary", show_header=False, title_justify="left")
    table.add_row("rows", f"{rows['kept']} of {rows['rows']}")
    table.add_row("too long", f"{rows['dropped']} dropped, {rows['truncated']} truncated")
    for name, reason in REFUSALS.items():
        if rows.get(name):  # older fine-tunings did not count them
            table.add_row("refused", f"{rows[name]}: {reason}")
    table.add_row("tokens", f"{rows['tokens']}, of them {rows['completion_tokens']} with loss")
    table.add_row("steps", f"{result['steps']} ({result['epochs']:g} epochs)")
    table.add_row("loss", f"{result['first_loss']:.3f} at first, {result['last_loss']:.3f} at last")
    table.add_row("seconds", f"{result['seconds']:.0f}")
    console().print(table)
    console().print(f"model: {done.model}", markup=False, highlight=False)


def print_evaluation(location: str, report: dict[str, Any]) -> None:
    """The scores of every model, the differences, and where everything lies."""
    out = console()
    title = f"{report['instances']} instances of {report['tasks']} tasks"
    table = Table(title=title, title_justify="left")
    metrics = report["metrics"]
    for column in ("model", *metrics.values(), "words", "cut off", "failed"):
        table.add_column(column)
    for name, model in report["models"].items():
        scores = [escape(interval(model["overall"][metric])) for metric in metrics]
        counts = (str(model["words"]), str(model["cut_off"]), str(model["failed"]))
        table.add_row(escape(name), *scores, *counts)
    out.print(table)
    for name in report["differences"]:
        for line in (*differences(report, name), f"How sure: {how_sure(report, name)}"):
            out.print(line, markup=False, highlight=False)
    for reason, count in report["left_out"].items():
        out.print(f"{count} instances left out: {reason}", markup=False, highlight=False)
    for what, name in (("report", "report.json"), ("rate blind", "rate.html")):
        out.print(f"{what + ':':<12}{location}/{name}", markup=False, highlight=False)


def print_ratings(result: dict[str, Any]) -> None:
    """Counts of the grades by model and rater, and the agreement."""
    table = Table()
    for column in ("model", "rater", *GRADES):
        table.add_column(column)
    for model, by_rater in result["models"].items():
        for rater, counts in by_rater.items():
            table.add_row(escape(model), escape(rater), *(str(counts[g]) for g in GRADES))
    out = console()
    out.print(table)
    for pair in result["pairs"]:
        out.print(
            f"{' and '.join(pair['raters'])}, on {pair['both_rated']} answers: Cohen's kappa "
            f"{_or_none(pair['cohen_kappa'])}, of good (A, B) or bad "
            f"{_or_none(pair['cohen_kappa_good_or_bad'])}; Spearman {_or_none(pair['spearman'])}",
            markup=False,
            highlight=False,
        )
    if alpha := result["krippendorff_alpha"]:
        parts = ", ".join(f"{level} {_or_none(value)}" for level, value in alpha.items())
        out.print(f"all raters: Krippendorff's alpha {parts}", markup=False, highlight=False)


def print_loop(location: str, card: dict[str, Any]) -> None:
    """What a loop came to: rows, losses, both evaluations, and where everything lies."""
    build, training = card["build"], card["training"]
    console().print(
        f"{build['accepted']} instructions, {build['rows']} rows; {training['steps']} steps, loss "
        f"{training['first_loss']:.3f} at first and {training['last_loss']:.3f} at last",
        markup=False,
        highlight=False,
    )
    print_evaluation(f"{location}/evaluation", card["evaluation"])
    for what, name in (("model", "training/model"), ("card", "README.md")):
        console().print(f"{what + ':':<12}{location}/{name}", markup=False, highlight=False)


def _or_none(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"
