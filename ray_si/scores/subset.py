"""A run's chosen rows as a run of their own, which remembers where they come from.

::

    RUN2/run.json            the header of RUN, and what was selected from it and how
    RUN2/seeds.parquet       as in RUN
    RUN2/selection.parquet   the rows by id, best first, with the scores they were chosen by
    RUN2/scores/...          the scores of RUN, for all its rows
    RUN2/data/train-...      the rows, in the order of RUN
    RUN2/README.md           what this is
    RUN2/stats.json          last

Rounds, answers and instances stay in RUN. `export`, `push`, `finetune`, `verify` and further
selections take RUN2 as they take any run; `build` and `regate` refuse it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_si._version import __version__
from ray_si.errors import RunError
from ray_si.export.rows import suffixes
from ray_si.export.training_lines import Source
from ray_si.run.folder import check_beside
from ray_si.run.manifests import Stats, StoredObject, stored_object
from ray_si.run.run import Run
from ray_si.run.schemas import TRAINING_ROWS, embeddings_of
from ray_si.run.seeds import seeds_of
from ray_si.scores.expression import Columns, Expression
from ray_si.scores.selection import Criteria, choose
from ray_si.scores.stored import StoredScores, check_covers

CONTROL = "-random"
"""What the control's place is called after that of the selection."""

_NUMBERS = {pa.int64(), pa.float64(), pa.bool_()}


@dataclass(frozen=True)
class Selected:
    """What `select` came to; see `Choice` for the counts."""

    location: str
    control: str
    rows: int
    passed: int
    unknown: int
    alike: int
    chosen: int
    instructions: int


def select(
    run: Run,
    to: str,
    *,
    by: str | None = None,
    top: int | None = None,
    rank: str | None = None,
    per_cluster: bool = False,
    diverse: float | None = None,
    seed: int = 0,
    scores_at: str | None = None,
) -> Selected:
    """Write the rows of a finished run that are chosen to ``to``, and as many random ones beside.

    See `Criteria` for what is asked; names in expressions are scores of the run, stored beside it
    or at ``scores_at``, and numbers among its columns. The control goes to ``to`` + `CONTROL`.

    Raises ConfigError for expressions that make no sense, RunError where nothing or too little is
    left, the run is unfinished, or a place is in use or inside the run; all before anything is
    written.
    """
    check_beside(to, run.location)
    source = Source(run)
    scores = StoredScores(run, scores_at)
    numbers = [field.name for field in TRAINING_ROWS if field.type in _NUMBERS]
    known = [*scores.names, *(name for name in numbers if name not in scores.names)]

    def parsed(text: str | None) -> Expression | None:
        return None if text is None else Expression.parse(text, known)

    criteria = Criteria(parsed(by), top, parsed(rank), per_cluster, diverse, seed)
    named = [name for name in criteria.names if name in scores.names]
    check_covers(scores, named, source.rows)
    table = _read(source, ["id", "instruction_id", *(set(criteria.names) - set(named))])
    columns = {name: scores.values(name, table["id"]) for name in named}
    columns |= {name: _number(table[name]) for name in criteria.names if name not in named}
    embeddings = _Embeddings(run, table) if criteria.needs_embeddings else None
    choice = choose(columns, source.rows, criteria, embeddings)
    description = {
        "run": run.location,
        "fingerprint": run.header["fingerprint"],
        "by": by,
        "top": top,
        "rank": rank,
        "per_cluster": per_cluster,
        "diverse": diverse,
        "seed": seed,
        "scores": {name: scores.find(name).folder for name in named},
        **{name: getattr(choice, name) for name in ("rows", "passed", "unknown", "alike")},
    }
    control = f"{to.rstrip('/')}{CONTROL}"
    best = _Subset(run, to, choice.chosen, description | {"control": False})
    random = _Subset(run, control, choice.control, description | {"control": True})
    for subset in (best, random):
        subset.write(source, table, columns, scores)
    return Selected(
        to,
        control,
        choice.rows,
        choice.passed,
        choice.unknown,
        choice.alike,
        chosen=len(choice.chosen),
        instructions=best.instructions,
    )


def _read(source: Source, columns: Sequence[str]) -> pa.Table:
    """These columns of all rows."""
    tables = list(source.tables(columns))
    if not tables:
        raise RunError("the run has no rows to select from")
    return pa.concat_tables(tables)


def _number(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64, null as NaN."""
    numbers: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


class _Embeddings:
    """Embeddings of rows, which are those of their instructions, as the run's gate stored them.

    Raises RunError where the run has none.
    """

    def __init__(self, run: Run, rows: pa.Table) -> None:
        self._run, self._instructions = run, rows["instruction_id"]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        ids: list[pa.Array] = []
        vectors: list[np.ndarray] = []
        needed = self._instructions.take(pa.array(rows)).combine_chunks()
        for table in self._run.accepted(["id", "embedding"]):
            part = table.filter(pc.is_in(table["id"], value_set=needed))
            embedded = embeddings_of(part)
            if part.num_rows and embedded is None:
                break
            if embedded is not None:
                ids.append(part["id"].combine_chunks())
                vectors.append(embedded.astype(np.float32))
        known = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        places = pc.index_in(needed, value_set=known)
        if places.null_count:
            raise RunError(
                f"{self._run.location} has not the embeddings by which rows are compared: leave "
                "--per-cluster and --diverse out (a run without a cosine gate has none, and a "
                "selection leaves them where it comes from)"
            )
        found = np.concatenate(vectors)[places.to_numpy()]
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        normalized: np.ndarray = found / np.maximum(lengths, np.finfo(np.float32).tiny)
        return normalized


class _Subset:
    """One run to be written: ``rows`` of the source by number, best first where that is known.

    Raises RunError where its place is in use.
    """

    def __init__(
        self, source: Run, location: str, rows: np.ndarray, description: dict[str, Any]
    ) -> None:
        self._source, self._rows = source, rows
        self.instructions = 0
        header: dict[str, Any] = {
            name: source.header[name]
            for name in ("config", "identity", "seeds_sha256", "reading", "decontaminate")
            if name in source.header
        }
        header |= {"ray_si": __version__, "selected_from": description}
        self._run = Run.prepare(location, header, source.header["fingerprint"])
        if list(self._run.objects.list("run.json")):
            raise RunError(f"{location} is a run already; choose another --to")

    def write(
        self, source: Source, table: pa.Table, columns: Columns, scores: StoredScores
    ) -> None:
        """Write it, stats.json last."""
        ids = table["id"].take(pa.array(self._rows)).combine_chunks()
        values = {name: column[self._rows] for name, column in columns.items()}
        selection = pa.table(
            {
                "id": ids,
                **{n: pa.array(v, pa.float64(), from_pandas=True) for n, v in values.items()},
            }
        )
        chosen = table["instruction_id"].take(pa.array(self._rows))
        self.instructions = pc.count_distinct(chosen).as_py()
        seeds = seeds_of(self._source.read("seeds.parquet"))
        with self._run.held():
            self._run.create(seeds, self._source.evaluation_sets(), selection)
            scores.copy_to(self._run)
            shards = list(self._shards(source))
            stats = cast(Stats, {**cast("dict[str, Any]", self._source.stats())})
            stats["rows"], stats["with_instance"] = len(self._rows), self.instructions
            stats["shards"], stats["documents"] = shards, []
            self._run.commit_stats(stats)

    def _shards(self, source: Source) -> Iterator[StoredObject]:
        """Write the shards."""
        output = self._source.header["config"].get("output", {})
        size = output.get("rows_per_shard", 10_000)
        count = -(-len(self._rows) // size)
        for index, table in enumerate(taken(source, np.sort(self._rows), size)):
            for suffix in suffixes(output.get("format", "parquet")):
                yield stored_object(self._run.write_shard(index, count, suffix, table))


def taken(source: Source, rows: np.ndarray, size: int) -> Iterator[pa.Table]:
    """The rows of these numbers, ascending, ``size`` at a time."""
    pending: list[pa.Table] = []
    before = waiting = 0
    for table in source.tables(source.names):
        first, last = np.searchsorted(rows, [before, before + table.num_rows])
        if last > first:
            pending.append(table.take(pa.array(rows[first:last] - before)))
            waiting += int(last - first)
        before += table.num_rows
        while waiting >= size:
            joined_ = pa.concat_tables(pending).combine_chunks()
            yield joined_.slice(0, size)
            pending, waiting = [joined_.slice(size)], waiting - size
    if waiting:
        yield pa.concat_tables(pending).combine_chunks()
