"""Reports as files, wherever the run and they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_si.errors import RunError, StorageError
from ray_si.records import StepListener
from ray_si.report.card import card
from ray_si.report.contents import RunContents, State
from ray_si.report.numbers import Statistics
from ray_si.report.page import render
from ray_si.report.statistics import collect
from ray_si.run.folder import check_beside
from ray_si.run.manifests import Stats
from ray_si.run.run import Run
from ray_si.storage.base import Objects, absolute, check_key
from ray_si.storage.objects import open_objects


def write_report(
    run: str, page: str, statistics: str | None = None, listen: StepListener = lambda *step: None
) -> State:
    """Write the page and, as JSON, the statistics of a run; returns the run's state.

    Existing files are replaced. Raises RunError where there is no run, one of rows selected from
    another, or a file would lie inside it, StorageError where one cannot be written; both before
    the run is read.
    """
    targets = [_target(path, run) for path in filter(None, [page, statistics])]
    if statistics and absolute(page) == absolute(statistics):
        raise StorageError(f"{page} is named for the page and for the statistics")
    contents = RunContents.open(run)
    if contents.selected_from:
        raise RunError(
            f"{run} holds rows selected from {contents.selected_from}, where its rounds and "
            "rejections are: report on that"
        )
    for objects, _ in targets:
        objects.check(write=True)
    numbers, rows = collect(contents, listen)
    if numbers["run"]["state"] == "finished":
        listen("scores", 0, 1)
        numbers["scores"] = contents.scores()
        numbers["run"]["state"], numbers["run"]["problems"] = contents.state, contents.problems
    rendered = [render(numbers, rows), statistics_json(numbers)]
    for (objects, name), data in zip(targets, rendered, strict=False):
        objects.put(name, data)
    state: State = numbers["run"]["state"]
    return state


def documents(
    run: Run, stats: Stats, chosen: Mapping[str, Any], listen: StepListener = lambda *step: None
) -> dict[str, bytes]:
    """README.md and report.html of a run that is complete but for stats.json, which will say this.

    ``chosen`` is the configuration's ``card`` section. Reads the whole run. The bytes depend on the
    run and on the parser that is installed, not on when or where they are made.
    """
    numbers, rows = collect(RunContents(run, stats=stats), listen)
    return {"README.md": card(numbers, rows, stats, chosen), "report.html": render(numbers, rows)}


def statistics_json(numbers: Statistics) -> bytes:
    """The statistics as a JSON file has them; pure ASCII."""
    return (json.dumps(numbers, indent=1) + "\n").encode()


def _target(path: str, run: str) -> tuple[Objects, str]:
    """Where a file goes: the store of its folder, and its name there."""
    whole = absolute(path)
    folder, slash, name = whole.rpartition("/")
    if not slash or not name or folder == "s3:/":
        raise StorageError(f"{path} is not the name of a file")
    check_beside(path, run)
    if "://" not in whole and Path(whole).is_dir():
        raise StorageError(f"{path} is a folder; name a file in it")
    return open_objects(folder or "/"), check_key(name)
