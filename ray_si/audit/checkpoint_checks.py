"""Verification of a run's checkpoint: a cache, which must say what the rounds say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ray_si.errors import StorageLostError
from ray_si.pipeline.instances import AcceptedInstruction, pool_of
from ray_si.run.audit import Audit, Check
from ray_si.run.checkpoint import FOLDER, head, read_segment, segments_among
from ray_si.run.layout import round_folder


def check_checkpoint(audit: Audit, pool: Sequence[AcceptedInstruction]) -> Check:
    """Every segment against the manifests of all rounds, and what they accepted.

    Those of a build that goes on meanwhile are left out: of later rounds, or gone with its end.
    """
    check, run, rounds = Check("checkpoint"), audit.run, audit.rounds
    starts = list(itertools.accumulate((m["accepted"] for m in rounds), initial=0))
    for span, keys in sorted(segments_among(audit.keys).items()):
        first, end = span
        try:
            segment = read_segment(run, span, keys, texts=True)
        except StorageLostError:
            run.objects.get("run.json")  # raises where it isn't that segment alone
            segment = None
        if segment is None and not set(keys.values()) <= set(run.objects.list(FOLDER)):
            continue
        if end > len(rounds) and _is_new(audit, end - 1):
            continue
        check.count += 1
        if segment is None:
            check.find(keys["pool"], "cannot be read, is damaged, or does not belong to its rounds")
        elif end > len(rounds):
            check.find(keys["rounds"], f"has rounds up to {end - 1}, and there are {len(rounds)}")
        elif segment.manifests != [head(manifest) for manifest in rounds[first:end]]:
            check.find(keys["rounds"], "has other manifests than its rounds")
        else:
            texts = [item for table in segment.tables for item in pool_of(table)]
            if texts != pool[starts[first] : starts[end]]:
                check.find(keys["pool"], "has other instructions than its rounds accepted")
    return check


def _is_new(audit: Audit, round_: int) -> bool:
    """Whether a round was committed since the audit looked what there is."""
    key = f"{round_folder(round_)}/manifest.json"
    return key not in audit.keys and key in audit.run.objects.list(key)
