"""Verbs that show what a run came to: report."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_si.cli.common import LOOK, RunPath, app, errors_as_exits, interruptible
from ray_si.cli.output import Steps, console


@app.command(
    rich_help_panel=LOOK,
    epilog="[b]Examples[/b]\n\nray-si report runs/quickstart --to report.html\n\n"
    "ray-si report s3://datasets/paper --to s3://reports/paper.html --json stats.json",
)
def report(
    run: RunPath,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE.html", help="The page; may be s3://bucket/key.")
    ],
    json_: Annotated[
        str | None,
        typer.Option("--json", metavar="STATS.json", help="Also write the statistics as JSON."),
    ] = None,
) -> None:
    """Write one HTML page that shows what a run came to, whatever its state.

    The funnel with every rejection reason, rounds, lengths, similarity to the seeds, root verbs
    and their nouns (with the extra ray_si\\[report]), diversity, and rows to browse with where they
    come from. The page needs no network. Numbers are exact; of very many rows the page holds a
    sample, and says so. A run that is unfinished or damaged is shown as far as it can be read.
    """
    with errors_as_exits(), interruptible("nothing was written"):
        from ray_si.report.files import write_report

        with Steps() as steps:
            state = write_report(run, to, json_, steps.listen)
        console().print(f"report on a run that is {state}: {to}", markup=False, highlight=False)
        if json_:
            console().print(f"statistics: {json_}", markup=False, highlight=False)
