"""Verification of a run whose rows were selected from another's."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_si.errors import StorageError, StorageLostError, UserError
from ray_si.export.training_lines import Source
from ray_si.run.audit import Audit, Check
from ray_si.run.run import Run
from ray_si.scores.subset import taken


def check_selection(run: Run, audit: Audit) -> Check:
    """The shards hold the rows that selection.parquet names, each once and as they were selected.

    With the run that they come from, where that is still where it was; else a note says so.
    """
    check = Check("selection")
    if not audit.intact or audit.stats is None or audit.damaged:
        check.notes.append("not checked: what it depends on is damaged, or not written yet")
        return check
    selected = run.selection()["id"]
    source = Source(run)
    shards = pa.concat_tables(source.tables(source.names))
    check.count = len(selected)
    if pc.count_distinct(selected).as_py() != len(selected):
        check.find("selection.parquet", "names a row twice")
    if sorted(selected.to_pylist()) != sorted(shards["id"].to_pylist()):
        check.find("data", "holds other rows than selection.parquet names")
        return check
    instructions = pc.count_distinct(shards["instruction_id"]).as_py()
    check.expect("stats.json", "rows", len(shards), audit.stats["rows"])
    check.expect("stats.json", "with_instance", instructions, audit.stats["with_instance"])
    _compare(run, shards, check)
    return check


def _compare(run: Run, shards: pa.Table, check: Check) -> None:
    """The rows are those of the run they were selected from, in its order."""
    origin = run.header["selected_from"]["run"]
    try:
        source = Source(Run.open(origin))
        ids = pa.concat_tables(source.tables(["id"]))["id"]
    except (UserError, StorageLostError) as error:
        where = "cannot be reached" if isinstance(error, StorageError) else "is not there as it was"
        check.notes.append(f"rows not compared with {origin}, which {where}")
        return
    places = pc.index_in(shards["id"], value_set=ids.combine_chunks())
    if places.null_count:
        check.find("data", f"holds rows that {origin} does not have")
        return
    rows = np.sort(np.asarray(places))
    stored = (shards.slice(start, 10_000) for start in range(0, len(shards), 10_000))
    for start, (mine, theirs) in enumerate(zip_longest(stored, taken(source, rows, 10_000))):
        if mine is None or theirs is None or not mine.equals(theirs):
            check.find("data", f"rows from {start * 10_000} on are not those of {origin}")
            return
