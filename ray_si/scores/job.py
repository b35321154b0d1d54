"""One score of one run on its way: blocks of rows, computed once each, then the manifest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_si._version import __version__
from ray_si.errors import RunError
from ray_si.export.training_lines import Source
from ray_si.run.folder import Folder
from ray_si.run.layout import block_key, block_keys
from ray_si.run.run import Run, seal
from ray_si.scores.answers import OTHERS, AnswerSource, with_others
from ray_si.scores.base import FAILED, NOT_FINITE, Scored
from ray_si.scores.rows import blocks_of_rows, shards_digest
from ray_si.scores.stored import BLOCKS, HEADER, MANIFEST, SCORE_BLOCK, folder_name, place_of
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import claim_table, from_parquet, read_stored

Listen = Callable[[str, int, int], None]
"""Told the name of a score, and how many of how many rows have it."""


@dataclass(frozen=True)
class ScoreSummary:
    """What a score came to: rows with a value, and those without, by reason; where it is stored."""

    name: str
    rows: int
    scored: int
    unscored: dict[str, int]
    folder: str


class ScoreJob:
    """Brings the blocks of a score to their end.

    ``columns`` of the rows are read, ``size`` rows to a block; ``settings`` are all that its values
    depend on besides the rows. With ``of_answers`` all answers to the rows'
    inputs are its rows. Raises RunError where the run is not finished, or where the score's
    place holds something else.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        settings: dict[str, Any],
        *,
        columns: tuple[str, ...],
        size: int,
        location: str | None = None,
        of_answers: bool = False,
    ) -> None:
        self._run, self._name, self._size = run, name, size
        self._columns = list(dict.fromkeys(["id", *columns]))
        self._source = AnswerSource(run) if of_answers else Source(run)
        known = [*self._source.names, *([] if of_answers else [OTHERS])]
        for column in self._columns:
            if column not in known:
                what = "answers" if of_answers else "rows"
                raise RunError(f"{name} needs {column}, which the {what} of {run.location} lack")
        self.identity = {
            "name": name,
            "run": run.header["fingerprint"],
            "rows": shards_digest(run),
            "of_answers": of_answers,
            **settings,
        }
        place = f"{place_of(run, location)}/{folder_name(name, self.identity)}"
        self.folder = Folder(place, HEADER, "a score")
        self.rows = self._source.rows

    def summary(self) -> ScoreSummary | None:
        """What the score came to; None while it is not finished."""
        manifest = self.folder.read_json(MANIFEST)
        if manifest is None:
            return None
        counts = {name: manifest[name] for name in ("rows", "scored", "unscored")}
        return ScoreSummary(self._name, **counts, folder=self.folder.location)

    @contextmanager
    def held(self, notify: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """Begin or go on with the score, as the only one who writes it."""
        self.folder.claim(self.identity, {"ray_si": __version__, "block_size": self._size})
        self._check_block_size()
        with self.folder.held(notify):
            yield

    def _check_block_size(self) -> None:
        """Raise RunError where blocks of another size stand."""
        begun = (self.folder.read_json(HEADER) or {}).get("block_size")
        if begun != self._size:
            raise RunError(
                f"{self.folder.location} was begun in blocks of {begun} rows, not {self._size}"
            )

    def standing(self) -> dict[int, str]:
        """Number -> key of the blocks that stand."""
        return block_keys(self.folder.objects.list(f"{BLOCKS}/"))

    def failed_blocks(self) -> list[int]:
        """Numbers of the blocks that stand and in which a request failed for good."""
        objects = self.folder.objects

        def failed(key: str) -> bool:
            return FAILED in from_parquet(objects.get(key), ["reason"])["reason"].to_pylist()

        standing = self.standing()
        flags = read_ahead(failed, standing.values())
        return [number for number, flag in zip(standing, flags, strict=True) if flag]

    def blocks(self) -> Iterator[tuple[int, pa.Table]]:
        """Every block of rows in order, with its number."""
        return enumerate(blocks_of_rows(self._tables(), self._size))

    def _tables(self) -> Iterator[pa.Table]:
        further = OTHERS in self._columns
        tables = self._source.tables([name for name in self._columns if name != OTHERS])
        return with_others(self._run, tables) if further else tables

    def store(self, number: int, block: pa.Table, scored: list[Scored]) -> None:
        """Store what a block's rows are given, unless it stands."""
        claim_table(self.folder.objects, block_key(BLOCKS, number), scored_table(block, scored))

    def finish(self) -> ScoreSummary:
        """Write the manifest over the blocks; RunError where they are not those of the rows."""
        entries: list[dict[str, Any]] = []
        unscored: Counter[str] = Counter()
        rows = scored = 0
        stored = read_ahead(partial(read_stored, self.folder.objects), self.standing().values())
        for number, (table, info) in enumerate(stored):
            expected = min(self._size, self.rows - number * self._size)
            if table.num_rows != expected:
                raise RunError(
                    f"{self.folder.location}/{info.key} has {table.num_rows} rows, not {expected}: "
                    "delete this score's folder and score again"
                )
            entries.append(asdict(info))
            rows += table.num_rows
            scored += len(table) - table["value"].null_count
            for pair in pc.value_counts(table["reason"].drop_null()).to_pylist():
                unscored[pair["values"]] += pair["counts"]
        assert rows == self.rows, "a score lost rows"
        counts = dict(sorted(unscored.items()))
        manifest = {
            "name": self._name,
            "identity": self.identity,
            "ray_si": __version__,
            "rows": rows,
            "scored": scored,
            "unscored": counts,
            "blocks": entries,
        }
        self.folder.write_json(MANIFEST, seal(manifest))
        return ScoreSummary(self._name, rows, scored, counts, self.folder.location)


def scored_table(block: pa.Table, scored: list[Scored]) -> pa.Table:
    """What the rows of a block are given, of `SCORE_BLOCK`; no value where it is not finite."""
    assert len(scored) == block.num_rows, "a score gave another number of values than of rows"
    given = [
        item
        if item.value is None or math.isfinite(item.value)
        else Scored(None, NOT_FINITE, item.detail)
        for item in scored
    ]
    values, reasons, details = zip(*given, strict=True) if given else ((), (), ())
    columns = [block["id"].combine_chunks(), values, reasons, details]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, SCORE_BLOCK, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCORE_BLOCK)
