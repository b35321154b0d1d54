"""Verification of what was scored later, beside a run."""

from __future__ import annotations

import hashlib
import json
import re

import pyarrow as pa

from ray_si.run.audit import Check, read
from ray_si.run.run import Run, seal
from ray_si.scores.stored import FOLDER, HEADER, MANIFEST, SCORE_BLOCK
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo, from_parquet

_BEGUN = re.compile(r"lease/.+|blocks/block-\d{5,}(-\d{5,})?\.parquet")


def check_scores(run: Run) -> Check:
    """Every block that a score's manifest names is as it says, and holds as many values.

    A score that is not finished is noted; what lies there besides is found.
    """
    check = Check("scores")
    folders: dict[str, list[str]] = {}
    for key in run.objects.list(f"{FOLDER}/"):
        folder, _, name = key.removeprefix(f"{FOLDER}/").partition("/")
        folders.setdefault(folder, []).append(name)
    for folder, names in sorted(folders.items()):
        _check_score(run, f"{FOLDER}/{folder}", names, check)
    return check


def _check_score(run: Run, folder: str, names: list[str], check: Check) -> None:
    known = {HEADER, MANIFEST}
    if MANIFEST in names:
        key = f"{folder}/{MANIFEST}"
        check.count += 1
        try:
            data = read(run.objects, key)
        except (KeyError, OSError) as error:
            check.find(key, f"cannot be read: {error}")
            return
        try:
            manifest = json.loads(data)
            if manifest != seal(manifest):
                raise ValueError("it has other content than its own SHA-256 says")
            blocks = [ShardInfo(**entry) for entry in manifest["blocks"]]
            rows, scored = manifest["rows"], manifest["scored"]
        except (ValueError, TypeError, KeyError) as error:
            check.find(key, f"is damaged: {error}")
            return
        tables = list(read_ahead(lambda info: _block(run, folder, info, check), blocks))
        whole = [table for table in tables if table is not None]
        if len(whole) == len(tables):
            check.expect(key, "rows", sum(len(table) for table in whole), rows)
            values = sum(len(table) - table["value"].null_count for table in whole)
            check.expect(key, "scored", values, scored)
        known |= {info.key for info in blocks}
    elif HEADER in names:
        check.notes.append(f"unfinished: {folder}")
    for name in names:
        if name not in known and not _BEGUN.fullmatch(name):
            check.find(f"{folder}/{name}", "is named by nothing")


def _block(run: Run, folder: str, info: ShardInfo, check: Check) -> pa.Table | None:
    """A block's rows; None, with a finding, where it is not what its manifest says."""
    check.count += 1
    key = f"{folder}/{info.key}"
    try:
        data = read(run.objects, key)
        if hashlib.sha256(data).hexdigest() != info.sha256:
            check.find(key, f"has other content than {MANIFEST} says (SHA-256)")
            return None
        table = from_parquet(data)
    except KeyError:
        check.find(key, "is missing")
        return None
    except (pa.ArrowException, OSError) as error:
        check.find(key, f"cannot be read: {error}")
        return None
    if table.schema != SCORE_BLOCK:
        check.find(key, "has other columns than a score")
        return None
    return table
