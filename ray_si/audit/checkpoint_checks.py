"""Verification of a run's checkpoint: a cache, which must say what the rounds say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ray_si.pipeline.instances import AcceptedInstruction, pool_of
from ray_si.run.audit import Check
from ray_si.run.checkpoint import head, read_segment, segment_keys
from ray_si.run.manifests import RoundManifest
from ray_si.run.run import Run


def check_checkpoint(
    run: Run, rounds: Sequence[RoundManifest], pool: Sequence[AcceptedInstruction]
) -> Check:
    """Every segment against the manifests of all rounds, and what they accepted."""
    check = Check("checkpoint")
    starts = list(itertools.accumulate((m["accepted"] for m in rounds), initial=0))
    for span, keys in sorted(segment_keys(run).items()):
        check.count += 1
        first, end = span
        segment = read_segment(run, span, keys, texts=True)
        if segment is None:
            check.find(keys["pool"], "is damaged, or does not belong to its rounds")
        elif end > len(rounds):
            check.find(keys["rounds"], f"has rounds up to {end - 1}, and there are {len(rounds)}")
        elif segment.manifests != [head(manifest) for manifest in rounds[first:end]]:
            check.find(keys["rounds"], "has other manifests than its rounds")
        else:
            texts = [item for table in segment.tables for item in pool_of(table)]
            if texts != pool[starts[first] : starts[end]]:
                check.find(keys["pool"], "has other instructions than its rounds accepted")
    return check
