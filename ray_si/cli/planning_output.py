"""What preview, estimate and doctor show."""

from __future__ import annotations

from collections import Counter
from math import isinf
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ray_si.cli.output import console, plain
from ray_si.records import Prompt

if TYPE_CHECKING:
    from ray_si.planning.doctor import Finding
    from ray_si.planning.estimate import Estimate, Range
    from ray_si.planning.preview import AnsweredPrompt, Line, Written
    from ray_si.self_instruct.thoughts import Thoughts


def print_findings(findings: list[Finding]) -> None:
    """A line for each; red with a cross where it will not do."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {True: Text("ok", "green"), False: Text("no", "red"), None: Text("")}
    for finding in findings:
        table.add_row(Text(finding.subject, "bold"), marks[finding.is_fine], Text(finding.text))
    console().print(table)


def print_preview(answered: list[AnsweredPrompt], written: list[Written], seconds: float) -> None:
    """Prompts, completions, and what became of each line."""
    out = console()
    for number, item in enumerate(answered, 1):
        kind = ", classification tasks only" if item.classification_only else ""
        out.rule(Text(f"prompt {number} of {len(answered)} ({item.request_id}{kind})"))
        _panel(out, "prompt", _as_text(item.prompt), "dim")
        done = item.completion
        title = f"completion: {done.completion_tokens} tokens, ended by {done.finish_reason}"
        _print_thought(out, item.parts)
        _panel(out, title, done.error or item.parts.answer, "red" if done.error else "")
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for line in item.lines:
            table.add_row(_decision(line), _text_and_match(line))
        out.print(table)
    for instruction in written:
        _print_written(out, instruction)
    lines = [line for item in answered for line in item.lines]
    reasons = Counter(line.reason for line in lines if line.reason)
    refused = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    kept = len(lines) - sum(reasons.values())
    out.rule()
    summary = f"{len(lines)} candidates: {kept} kept, {len(lines) - kept} refused"
    out.print(f"{summary}{f' ({refused})' if refused else ''}", markup=False, highlight=False)
    if written:
        good = sum(bool(instruction.kept) for instruction in written)
        text = f"{good} of {len(written)} instructions got a valid instance"
        out.print(text, markup=False, highlight=False)
    text = f"{seconds:.0f} s; nothing was written"
    out.print(text, style="dim", markup=False, highlight=False)


def print_estimate(estimate: Estimate) -> None:
    """The ranges as a table, then what to be careful about."""
    out = console()
    title = f"{estimate.target} instructions, estimated from {estimate.sample} completions"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("")
    for name in ("5 %", "median", "95 %"):
        table.add_column(name, justify="right")
    for name, range_, form in (
        ("accepted a completion, at first", estimate.acceptance, "{:.2f}"),
        ("accepted a completion, at the end", estimate.final_acceptance, "{:.2f}"),
        ("completions for instructions", estimate.completions, "{:,.0f}"),
        ("prompt tokens", estimate.prompt_tokens, "{:,.0f}"),
        ("completion tokens", estimate.completion_tokens, "{:,.0f}"),
        ("hours", estimate.hours, "{:.3g}"),
        ("dollars", estimate.dollars, "{:,.2f}"),
    ):
        _add_range(table, name, range_, form)
    out.print(table)
    for note in estimate.notes:
        out.print(f"- {note}", markup=False, highlight=False)


def _add_range(table: Table, name: str, range_: Range | None, form: str) -> None:
    if range_ is not None:
        values = (range_.low, range_.mid, range_.high)
        table.add_row(name, *("never" if isinf(v) else form.format(v) for v in values))


def _print_written(out: Console, item: Written) -> None:
    kind = "classification task" if item.is_classification else "generation task"
    out.rule(Text(f"instances: {item.instruction}", overflow="ellipsis"))
    if item.classification is None:
        asked = f"{kind} (not asked)"
    else:
        asked = f"{kind} (answered: {item.classification.text.strip()})"
    out.print(asked, style="dim", markup=False, highlight=False)
    if item.completion is None:
        out.print("came with its instruction", style="dim", markup=False, highlight=False)
    else:
        _print_thought(out, item.parts)
        _panel(out, "completion", item.completion.error or item.parts.answer, "")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("", "input", "output"):
        table.add_column(name, overflow="fold")
    for instance in item.kept:
        table.add_row(Text("kept", "green"), plain(instance["input"]), plain(instance["output"]))
    for instance in item.rejected:
        reason = Text(instance["reason"], "red")
        table.add_row(reason, plain(instance["input"]), plain(instance["output"]))
    out.print(table)


def _print_thought(out: Console, parts: Thoughts) -> None:
    if parts.thought:
        ended = "" if parts.is_finished else "; it never ended"
        _panel(
            out, f"thought, left out ({len(parts.thought)} characters{ended})", parts.thought, "dim"
        )


def _decision(line: Line) -> Text:
    return Text("kept", "green") if line.reason is None else Text(line.reason, "red")


def _text_and_match(line: Line) -> Text:
    text = plain(line.text)
    if line.match is not None:
        score = "" if line.score is None else f"{line.score:.2f} "
        of = "" if line.source is None else f", of {line.source}"
        text.append(f"\n{score}with{of}: ", "dim").append(plain(line.match))
    return text


def _panel(out: Console, title: str, text: str, style: str) -> None:
    out.print(Panel(plain(text), title=Text(title), title_align="left", border_style=style or ""))


def _as_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in prompt)
