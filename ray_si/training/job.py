"""A fine-tuning in storage: what it is of, its tokens, its metrics, the model it ends with.

::

    training.json                                     what it is of; written first, once
    tokens/part-00000.parquet ... manifest.json       the run's rows as the trainer takes them
    checkpoints/                                      Ray Train's: from here it goes on
    metrics.jsonl                                     a line for each logged step
    model/                                            loads with from_pretrained
    result.json                                       last of all: it is finished
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_si.errors import DamageError, RunError
from ray_si.run.folder import Folder
from ray_si.storage.tables import read_table, write_table
from ray_si.training.encode import REFUSALS, Encoder
from ray_si.training.provenance import RECORD

METRICS, RESULT = "metrics.jsonl", "result.json"
_MANIFEST = "tokens/manifest.json"
_CHECKPOINTS = "checkpoints/checkpoint_manager_snapshot.json"
"""Ray Train's list of them, which it writes in place."""


class Job:
    """One fine-tuning's objects, by meaning, at a folder or ``s3://bucket/prefix``."""

    def __init__(self, location: str) -> None:
        self.folder = Folder(location, "training.json", "a fine-tuning")
        self.location = self.folder.location
        self._objects = self.folder.objects

    # Tokens ------------------------------------------------------------------------------------

    def token_counts(self) -> dict[str, int] | None:
        """What became of the run's rows (see `Encoder`); None until the tokens are written."""
        manifest = self.folder.read_json(_MANIFEST)
        return manifest and manifest["counts"]

    def write_tokens(self, parts: Iterable[pa.Table], counts: dict[str, int]) -> None:
        """Write the tokens of the run, each part under its number."""
        keys = []
        for number, part in enumerate(parts):
            keys.append(f"tokens/part-{number:05d}.parquet")
            write_table(self._objects, keys[-1], part)
        self.folder.write_json(_MANIFEST, {"counts": counts, "parts": keys})

    def tokens(self) -> pa.Table:
        """Every row of `TOKENS`, in the run's order."""
        manifest = self.folder.read_json(_MANIFEST)
        if manifest is None:
            raise RunError(f"{self.location} is damaged: {_MANIFEST} is missing")
        return pa.concat_tables([read_table(self._objects, key) for key in manifest["parts"]])

    # Checkpoints -------------------------------------------------------------------------------

    def set_cut_list_aside(self) -> bool:
        """Rename Ray Train's list of checkpoints where it was cut short by a kill or a full disk.

        Returns whether it was: Ray Train, which would end at it, knows of no checkpoint then.
        """
        try:
            self.folder.read_json(_CHECKPOINTS)
        except DamageError:
            self._objects.move(_CHECKPOINTS, f"{_CHECKPOINTS}.damaged")
            return True
        return False

    # Metrics -----------------------------------------------------------------------------------

    def write_metrics(self, lines: list[dict[str, float]]) -> None:
        """Replace metrics.jsonl."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._objects.put(METRICS, text.encode())

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, none while there is none."""
        try:
            text = self._objects.get(METRICS).decode()
        except KeyError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    # Model -------------------------------------------------------------------------------------

    def write_model(self, folder: Path, record: dict[str, Any]) -> None:
        """Copy a model's files here, in folders too, with the record of what it was trained on."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb") as stream:
                self._objects.put(f"model/{path.relative_to(folder).as_posix()}", stream)
        data = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        self._objects.put(f"model/{RECORD}", data.encode())

    @property
    def model(self) -> str:
        """Where the model is, once there is a result."""
        return f"{self.location.rstrip('/')}/model"

    def result(self) -> dict[str, Any] | None:
        """What it came to; None while it isn't finished."""
        return self.folder.read_json(RESULT)


Rows = Iterator[tuple[list[str], list[str], list[str]]]
"""Ids, prompts and completions, shard by shard."""


def encode_rows(rows: Rows, encoder: Encoder, location: str) -> list[pa.Table]:
    """The tokens of a run's rows; RunError where none is left to train on."""
    parts = [encoder.encode(*part) for part in rows]
    counts = encoder.counts
    if not counts["rows"]:
        raise RunError(f"{location} has no rows to train on")
    if not counts["kept"]:
        reasons = [f"{REFUSALS[name]} ({counts[name]})" for name in REFUSALS if counts[name]]
        fault = f"can be trained on: {', '.join(reasons)}"
        if not reasons:
            fault = "fits max_length: raise it, or set too_long to truncate"
        raise RunError(f"none of the {counts['rows']} rows of {location} {fault}")
    return [part for part in parts if part.num_rows]
