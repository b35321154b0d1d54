"""Scores in storage, beside the run that they are of.

::

    RUN/scores/length-1a2b3c4d/score.json                 what it is, written first
    RUN/scores/length-1a2b3c4d/lease/00001.json           who writes
    RUN/scores/length-1a2b3c4d/blocks/block-00000.parquet ...
    RUN/scores/length-1a2b3c4d/manifest.json              last: names the blocks, counts the rows

A folder is named for the score and the digest of all that its values depend on: kind, version,
settings, model, and the rows themselves. A block that stands is never computed again.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_si.errors import ConfigError, DamageError, RunError, StorageError
from ray_si.run.run import Run, seal
from ray_si.storage.base import Objects, absolute
from ray_si.storage.objects import open_objects
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo, from_parquet, read_named

FOLDER = "scores"
"""Of a run, where its scores are unless another place is named."""

HEADER, MANIFEST, BLOCKS = "score.json", "manifest.json", "blocks"

SCORE_BLOCK = pa.schema(
    [
        ("id", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A training row by id, and what it is given; see `ray_si.scores.base.Scored`."""


def folder_name(name: str, identity: Mapping[str, Any]) -> str:
    """Name of the folder of a score whose values depend on this, which is plain JSON."""
    text = json.dumps(identity, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def place_of(run: Run, location: str | None) -> str:
    """Where a run's scores are: beside it, or at ``location``."""
    return f"{run.location.rstrip('/')}/{FOLDER}" if location is None else absolute(location)


@dataclass(frozen=True)
class StoredScore:
    """A finished score: its ``name``, where it is, and what its manifest says."""

    name: str
    folder: str
    manifest: dict[str, Any]

    @property
    def alias(self) -> str:
        """The name with its digest, by which it is told from others of its name."""
        return self.folder.replace("-", "_")


class StoredScores:
    """The finished scores at a place, as columns.

    Of several scores of one name (other settings, or another model) each goes by its alias, such
    as ``judge_1a2b3c4d``. With ``of_answers`` they are those of all answers, by
    `ray_si.scores.answers.answer_id`. Raises DamageError where a manifest makes no sense.
    """

    def __init__(self, run: Run, location: str | None = None, *, of_answers: bool = False) -> None:
        self._place = place_of(run, location)
        self._objects = open_objects(self._place)
        finished = _finished(self._objects, self._place, run.header["fingerprint"])
        self._scores = [
            score for score in finished if score.manifest["identity"]["of_answers"] == of_answers
        ]

    @property
    def names(self) -> list[str]:
        """What the scores go by, sorted."""
        return sorted(self.by_name)

    @property
    def by_name(self) -> dict[str, StoredScore]:
        """What each score goes by -> the score."""
        by_name: dict[str, StoredScore] = {}
        for score in self._scores:
            others = [other for other in self._scores if other.name == score.name]
            by_name[score.alias if len(others) > 1 else score.name] = score
        return by_name

    def find(self, name: str) -> StoredScore:
        """The score of that name; ConfigError where there is none, or there are several."""
        by_name = self.by_name
        if name in by_name:
            return by_name[name]
        several = sorted(score.alias for score in self._scores if score.name == name)
        if several:
            raise ConfigError(f"{name} was scored {len(several)} times: use {', '.join(several)}")
        plain = [score.name for score in self._scores]
        near = difflib.get_close_matches(name, [*by_name, *plain], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(by_name) or 'none'}"
        raise ConfigError(f"there is no score {name} in {self._place} ({hint})")

    def copy_to(self, run: Run) -> None:
        """Copy what the scores' manifests name, and these, into another run's folder of scores."""
        for score in self._scores:
            blocks = [entry["key"] for entry in score.manifest["blocks"]]
            keys = [f"{score.folder}/{key}" for key in (HEADER, *blocks, MANIFEST)]
            for key, data in zip(keys, read_ahead(self._objects.get, keys), strict=True):
                run.objects.put(f"{FOLDER}/{key}", data)

    def table(self, name: str) -> pa.Table:
        """The ``id`` and ``value`` of all rows of a score, in the order in which it was given them.

        RunError where a block is missing or damaged.
        """
        score, columns = self.find(name), ["id", "value"]

        def read(entry: dict[str, Any]) -> pa.Table:
            info = ShardInfo(**entry | {"key": f"{score.folder}/{entry['key']}"})
            return from_parquet(read_named(self._objects, self._place, info, MANIFEST), columns)

        tables = list(read_ahead(read, score.manifest["blocks"]))
        return pa.concat_tables(tables) if tables else SCORE_BLOCK.empty_table().select(columns)

    def values(self, name: str, ids: pa.ChunkedArray) -> np.ndarray:
        """The score of each of these rows, float64, NaN where it has none, shape (rows,)."""
        return Values(self.table(name)).of(ids)


class Values:
    """What a score gave, looked up by id for one table of rows after another.

    ``table`` is what `StoredScores.table` returns. Rows are looked for from behind the last call's
    on, since a run has them in the order of its scores, and where that is in vain from the start.
    """

    def __init__(self, table: pa.Table) -> None:
        values: np.ndarray = table["value"].to_numpy(zero_copy_only=False)  # nulls become NaN
        self._values = np.where(np.isfinite(values), values, np.nan)  # infinite ones stood once
        self._ids, self._next = table["id"], 0

    def of(self, ids: pa.ChunkedArray) -> np.ndarray:
        """See `StoredScores.values`."""
        places = self._places(ids)
        self._next = int(places.max(initial=-1)) + 1
        values = np.full(len(ids), np.nan)
        values[places >= 0] = self._values[places[places >= 0]]
        return values

    def _places(self, ids: pa.ChunkedArray) -> np.ndarray:
        """Where these rows are, -1 for those that are nowhere."""
        start, size = self._next, len(ids)
        if self._ids.slice(start, size).equals(ids):
            return np.arange(start, start + size)
        while True:
            window = self._ids.slice(start, size).combine_chunks()
            found = pc.index_in(ids, value_set=window)
            if not found.null_count:
                return start + np.asarray(found)
            if start + size < len(self._ids):
                size *= 2
            elif start:
                start, size = 0, len(self._ids)
            else:
                return np.asarray(pc.fill_null(found, -1))


def _finished(objects: Objects, place: str, fingerprint: str) -> list[StoredScore]:
    """Every finished score of the run of this fingerprint, by folder."""
    scores = []
    for key in objects.list():
        folder, _, name = key.partition("/")
        if name != MANIFEST:
            continue
        try:
            manifest = json.loads(objects.get(key))
            sound = manifest == seal(manifest)
            score = StoredScore(manifest["name"], folder, manifest)
            of_run = manifest["identity"]["run"]
        except StorageError:
            raise  # a store that refuses has damaged nothing
        except (ValueError, TypeError, KeyError) as error:
            raise DamageError(f"{place}/{key} is damaged: {error!r}") from error
        if not sound:
            raise DamageError(f"{place}/{key} has other content than its own SHA-256 says")
        if of_run == fingerprint:
            scores.append(score)
    return scores


def check_covers(scores: StoredScores, names: Sequence[str], rows: int) -> None:
    """Raise RunError where a score is of fewer rows than there are."""
    for name in names:
        covered = scores.find(name).manifest["rows"]
        if covered < rows:
            raise RunError(f"{name} has scored {covered} of {rows} rows: run `ray-si score` again")
