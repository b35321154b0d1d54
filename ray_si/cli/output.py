"""What the command line shows: progress, summaries, tables."""

from __future__ import annotations

import re
import sys
import time
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from ray_si.config import RunConfig
from ray_si.errors import one_line
from ray_si.export.rows import training_rows
from ray_si.pipeline.progress import DedupProgress, Progress
from ray_si.run.audit import Check
from ray_si.run.manifests import Stats
from ray_si.run.run import Run

if TYPE_CHECKING:
    from typing_extensions import Self

    from ray_si.audit.regate import Regated
    from ray_si.build.builder import Inputs
    from ray_si.corpora.dedup import DedupReport
    from ray_si.corpora.removals import RemovalReport
    from ray_si.export.dataset_files import DatasetFiles
    from ray_si.export.hub import Pushed

_STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_EVERY_S = 10.0
"""Seconds between progress lines where there is no terminal."""


def console(*, error: bool = False) -> Console:
    """Standard output or error; lines are not wrapped where nobody looks at a terminal."""
    return Console(stderr=error, soft_wrap=True)


def duration(seconds: float) -> str:
    """A time in the unit that people would tell it in, from seconds to days."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Display:
    """Bars on a terminal, plain lines elsewhere (standard error)."""

    _columns: tuple[ProgressColumn, ...]

    def __init__(self) -> None:
        self._console = console(error=True)
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Bars(*self._columns, TimeElapsedColumn(), console=self._console)
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def _line(self, text: str, *, now: bool) -> None:
        """Print a line if it is time for one, or ``now``."""
        if now or time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(plain(text), highlight=False)


class BuildDisplay(Display):
    """Shows the `Progress` of a build."""

    _columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )

    def __init__(self) -> None:
        super().__init__()
        self._phase = ""
        self._began = (0.0, 0, 0)  # of the current phase: time, done, tokens
        self._answered = 0  # until then

    def listen(self, progress: Progress) -> None:
        """Take a new state."""
        now = time.monotonic()
        changed = progress.phase != self._phase
        answered = progress.usage.requests.total()
        # until something is answered, what is done was found by a resume
        if changed or (progress.usage.replicas and answered == self._answered):
            self._phase, self._answered = progress.phase, answered
            self._began = (now, progress.done, progress.tokens)
        detail = self._detail(progress, now)
        if self._bars:
            self._show_bar(progress, changed, detail)
        else:
            counts = f" {progress.done}/{progress.total}" if progress.total else ""
            note = f" - {progress.note}" if progress.note else ""
            text = f"{progress.phase}{counts} {detail}".rstrip() + note
            self._line(text, now=bool(progress.note) or changed)

    def _show_bar(self, progress: Progress, changed: bool, detail: str) -> None:
        assert self._bars is not None
        total = progress.total or None
        if changed or self._task is None:
            self._task = self._bars.add_task(progress.phase, total=total, detail="")
        if progress.note and progress.note == progress.usage.trouble:  # above the bar, to stay
            self._bars.console.print(plain(progress.note), highlight=False)
        shown = progress.note if progress.phase == "start" else detail
        self._bars.update(
            self._task, completed=progress.done, total=total, detail=plain(shown).plain
        )

    def _detail(self, progress: Progress, now: float) -> str:
        since, done, tokens = self._began
        parts = []
        if progress.phase == "bootstrap" and progress.candidates:
            parts.append(f"{100 * progress.done / progress.candidates:.0f} % of candidates")
        if progress.phase == "instances":
            parts.append(f"{progress.instances} instances")
        elapsed = max(now - since, 1e-6)
        if progress.tokens > tokens:
            parts.append(f"{(progress.tokens - tokens) / elapsed:.0f} tokens/s")
        if progress.utilisation is not None:
            parts.append(f"{100 * progress.utilisation:.0f} % busy")
        if waiting := progress.usage.queued:
            parts.append(f"{waiting} waiting")
        if progress.dollars is not None:
            parts.append(f"${progress.dollars:,.2f}")
        if progress.done > done:
            seconds_left = (progress.total - progress.done) * elapsed / (progress.done - done)
            parts.append(f"about {duration(seconds_left)} left")
        return ", ".join(parts)


class DedupDisplay(Display):
    """Shows the `DedupProgress` of a deduplication."""

    _columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))

    def __init__(self) -> None:
        super().__init__()
        self._began = self._last_line = time.monotonic()  # a short job prints no progress

    def listen(self, progress: DedupProgress) -> None:
        """Take a new state."""
        if not progress.rows:
            self._began = time.monotonic()
        text = progress.note or self._detail(progress)
        if self._bars is None:
            share = f"{100 * progress.done / progress.total:.0f} % " if progress.done else ""
            self._line(share + text, now=False)
            return
        if self._task is None:
            self._task = self._bars.add_task(text, total=progress.total)
        self._bars.update(self._task, completed=progress.done, description=text)

    def _detail(self, progress: DedupProgress) -> str:
        rate = progress.rows / max(time.monotonic() - self._began, 1e-6)
        return (
            f"{progress.rows} rows, {rate:.0f} rows/s, "
            f"{progress.accepted} accepted, {progress.rejected} rejected"
        )


class Steps(Display):
    """Shows the steps of a task that has several, each with how much of how much is done."""

    _columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )

    def __init__(self) -> None:
        super().__init__()
        self._last_line = time.monotonic()  # a short task prints no progress
        self._what = ""

    def listen(self, what: str, done: int, total: int) -> None:
        """Take a new state."""
        if self._bars is None:
            self._line(f"{what} {done}/{total}", now=False)
            return
        if what != self._what or self._task is None:
            self._task = self._bars.add_task(what, total=total)
            self._what = what
        self._bars.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Say what happens before there is something to count."""
        self._line(text, now=True)


class ExportDisplay(Display):
    """Shows how much of an export is done."""

    _columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))

    def __init__(self) -> None:
        super().__init__()
        self._last_line = time.monotonic()  # a short export prints no progress

    def listen(self, done: int, total: int) -> None:
        """Take a new state."""
        note = "putting in place" if done == total else "writing"
        if self._bars is None:
            self._line(f"{100 * done / total:.0f} % {note}", now=False)
            return
        if self._task is None:
            self._task = self._bars.add_task(note, total=total)
        self._bars.update(self._task, completed=done, description=note)


def print_check(config: RunConfig, inputs: Inputs) -> None:
    """What `ray-si check` found."""
    from ray_si.pipeline.decisions import unread_note
    from ray_si.pipeline.occupancy import idle_notes

    out = console()
    classification = sum(seed.is_classification for seed in inputs.seeds)
    generator = config.generator
    sets = "".join(
        f"{evaluation_set.name} ({len(evaluation_set.texts)} texts), "
        for evaluation_set in inputs.sets
    )
    out.print(
        f"ok: {len(inputs.seeds)} seed tasks ({classification} classification), "
        f"{'decontaminated against ' + sets if sets else ''}"
        f"{generator.engine} {generator.model or ''} x {generator.replicas}, "
        f"target {config.target_instructions}; fingerprint {inputs.fingerprint(config)[:12]}",
        markup=False,
        highlight=False,
    )
    unread = unread_note(config, [seed.instruction for seed in inputs.seeds], "seed tasks")
    for note in (*filter(None, [unread]), *idle_notes(config)):
        out.print(f"note: {note}", markup=False, highlight=False)


def print_status(location: str, status: dict[str, Any]) -> None:
    """The keys of `ray_si.run.status.status` as a table."""
    table = Table(title=plain(location), show_header=False, title_justify="left")
    live = status.get("live", {})
    for key, value in {k: v for k, v in status.items() if k != "live"}.items():
        text = _by_set(value) if key == "contaminated" else _counts(value)
        table.add_row(key, plain(text))
    table.add_section()
    for key, value in live.items():
        table.add_row(key.replace("_", " "), plain(_counts(value)))
    console().print(table)


def _counts(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"


def print_summary(location: str, stats: Stats, seconds: dict[str, float]) -> None:
    """What a build came to: counts, five sample rows, and where everything lies."""
    out = console()
    table = Table(title="Summary", show_header=False, title_justify="left")
    table.add_row("instructions accepted", f"{stats['accepted']} of {stats['candidates']}")
    for name, counts in (
        ("rejected", stats["rejected"]),
        ("instances rejected", stats["instances_rejected"]),
        *([("instances left out", stats["left_out"])] if "left_out" in stats else []),
    ):
        reasons = sorted(counts.items(), key=lambda item: -item[1])
        text = ", ".join(f"{reason} {count}" for reason, count in reasons)
        table.add_row(name, text or "-")
    if stats["contaminated"]:
        table.add_row("contaminated", plain(_by_set(stats["contaminated"])))
    table.add_row("classification tasks", str(stats["classification"]))
    table.add_row("with a valid instance", str(stats["with_instance"]))
    table.add_row("training rows", str(stats["rows"]))
    if seconds:
        table.add_row("seconds", ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()))
    out.print(table)
    samples = Table(title="Sample rows", title_justify="left", show_lines=True)
    for name in ("instruction", "input", "output"):
        samples.add_column(name, overflow="fold", max_width=60)
    for row in islice(training_rows(Run.open(location)), 5):
        samples.add_row(*map(_cell, (row["instruction"], row["input"], row["output"])))
    out.print(samples)
    if stats["rows"]:
        out.print(f"training shards: {location}/data", markup=False, highlight=False)
    else:
        out.print("no training rows: the reasons are beside rejected and instances rejected above")
    out.print(f"dataset card:    {location}/README.md", markup=False, highlight=False)
    out.print(f"report:          {location}/report.html", markup=False, highlight=False)
    out.print(f"counts:          {location}/stats.json", markup=False, highlight=False)
    out.print(
        f"rejected:        {location}/bootstrap/round-*/rejected-*.parquet",
        markup=False,
        highlight=False,
    )
    if sys.stdout.isatty():
        out.print(f"next: ray-si export {location} --format messages --to train_data", markup=False)


def _by_set(contaminated: dict[str, dict[str, int]]) -> str:
    """As `Run.contaminated` counts."""
    parts = (
        f"{name}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
        for name, counts in contaminated.items()
    )
    return "; ".join(parts) or "-"


def print_dedup_summary(report: DedupReport) -> None:
    """What a deduplication came to, and where everything lies."""
    out = console()
    table = Table(title="Summary", show_header=False, title_justify="left")
    table.add_row("rows", str(report.rows))
    table.add_row("kept", str(report.kept))
    for reason, count in report.rejected.items():
        table.add_row(f"rejected: {escape(reason)}", str(count))
    rate = report.rows / max(report.seconds, 1e-6)
    table.add_row("seconds", f"{report.seconds:.1f} ({rate:.0f} rows/s)")
    table.add_row("peak memory", f"{report.peak_bytes / 2**20:.0f} MiB")
    out.print(table)
    out.print(f"kept:     {report.out}", markup=False, highlight=False)
    out.print(f"rejected: {report.rejected_out}", markup=False, highlight=False)
    if report.indexed is not None:
        out.print(f"index:    {report.indexed} texts", markup=False, highlight=False)
    for names, what in ((report.empty, "no row in"), (report.passed_over, "not read")):
        if names:
            out.print(f"note: {what} {', '.join(names)}", markup=False, highlight=False)
    if report.was_done:
        out.print("note: this job was done before; nothing was left to do")
    if report.unread:
        out.print(
            "note: the reference tokenizer, which knows a-z and 0-9, read less than half of "
            f"{report.unread} of {report.rows} texts; --tokenizer auto reads them",
            markup=False,
            highlight=False,
        )


def print_removals(report: RemovalReport) -> None:
    """What a tool's removals came to, and some that are no near-duplicates."""
    out = console()
    table = Table(title="Removals", show_header=False, title_justify="left")
    rows = {
        "removals": report.removals,
        "near-duplicates by ROUGE-L": report.by_rouge,
        "by the cosine alone": report.by_cosine,
        "of another member of their cluster alone": report.chained,
        "no near-duplicates": report.unfounded,
        "kept, but not in the corpus": report.unknown,
    }
    for name, count in rows.items():
        if count or name in ("removals", "no near-duplicates"):
            share = f" ({count / report.removals:.1%})" if report.removals else ""
            table.add_row(name, f"{count}{share if name != 'removals' else ''}")
    out.print(table)
    for item in report.samples:
        scores = [] if item.rouge is None else [f"ROUGE-L {item.rouge:.2f}"]
        scores += [] if item.cosine is None else [f"cosine {item.cosine:.2f}"]
        near = f" ({', '.join(scores)}) {one_line(item.kept, 80)}" if item.kept is not None else ""
        out.print(plain(f"- {one_line(item.text, 80)}{near}"), highlight=False)


def print_verification(checks: list[Check]) -> None:
    """The checks with their counts and notes, then "ok" or each finding on a line."""
    out = console()
    table = Table(show_header=False, box=None)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]wrong[/]"
        table.add_row(check.name, mark, str(check.count), plain("; ".join(check.notes)))
    out.print(table)
    findings = [finding for check in checks for finding in check.as_dict()["findings"]]
    for finding in findings or ["ok"]:
        out.print(finding, markup=False, highlight=False)


def print_jobs(jobs: list[dict[str, Any]]) -> None:
    """A cluster's jobs, as `ray_si.submission.jobs.summary_of` has them."""
    table = Table()
    table.add_column("job", no_wrap=True, overflow="ignore")  # as the run is, to be copied whole
    table.add_column("status", no_wrap=True, overflow="ignore")
    table.add_column("run or command", overflow="fold")
    table.add_column("began")
    table.add_column("minutes", justify="right")
    for job in jobs:
        began, ended = job["began"], job["ended"] or time.time()
        table.add_row(
            plain(job["id"]),
            job["status"],
            plain(job["run"] or job["entrypoint"]),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(began)) if began else "-",
            f"{(ended - began) / 60:.1f}" if began else "-",
        )
    console().print(table if jobs else "no jobs")


def print_regated(source: str, location: str, result: Regated) -> None:
    """What `ray-si regate` came to, and how to go on."""
    lines = [
        f"{result.accepted} instructions accepted in {location}: {result.kept} as in {source}, "
        f"{result.accepted - result.kept} new; {result.dropped} of {source} dropped"
    ]
    if result.stats is None:
        lines.append(
            f"{location} is left open: `ray-si build` with the run's configuration and the new "
            "thresholds goes on from there"
        )
    else:
        lines.append(f"{result.stats['rows']} training rows: {location}/data")
        if result.not_asked:
            lines.append(
                f"{result.not_asked} new instructions have no instances, and so no rows; with "
                "--open they are left for `ray-si build` to write"
            )
    for line in lines:
        console().print(line, markup=False, highlight=False)


def print_dataset_files(files: DatasetFiles, target: str) -> None:
    """What a push would send, a file on a line."""
    out = console()
    for info in files.files:
        out.print(f"{decimal(info.size):>10}  {info.key}", markup=False, highlight=False)
    out.print(f"{_sum(files)} would go to {target}", markup=False, highlight=False)


def print_pushed(pushed: Pushed, files: DatasetFiles) -> None:
    """Where a push went, and what it took away or left."""
    lines = [f"nothing to push: {pushed.url} has these {len(files.files)} files already"]
    if pushed.changed:
        lines = [f"{_sum(files)} pushed to {pushed.url} (commit {pushed.commit[:12]})"]
    if pushed.removed:
        lines.append(f"removed, of an earlier version: {_some(pushed.removed)}")
    if pushed.others:
        lines.append(f"left as they are: {_some(pushed.others)}")
    for line in lines:
        console().print(line, markup=False, highlight=False)


def _sum(files: DatasetFiles) -> str:
    rows = sum(info.rows for info in files.files)
    return f"{len(files.files)} files, {rows} rows, {decimal(files.size)}"


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _cell(text: str, limit: int = 240) -> Text:
    return plain(text if len(text) <= limit else text[: limit - 1] + "…")


def plain(text: str) -> Text:
    """A text of a model's or a user's as it is, without what would steer a terminal.

    That are control characters, and those that turn the direction of a line.
    """
    return Text(_STEERING.sub("�", text.replace("\r\n", "\n").replace("\t", " ")))
