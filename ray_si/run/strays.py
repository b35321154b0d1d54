"""What the drivers of a finished run have left that nothing names."""

from __future__ import annotations

from collections.abc import Iterable

from ray_si.run.checkpoint import FOLDER
from ray_si.run.instance_parts import instance_objects
from ray_si.run.layout import round_folder, round_of, unfenced
from ray_si.run.run import LIVE, Manifest, Run


def strays(run: Run) -> list[str]:
    """Of a finished run, what its drivers have left that nothing names.

    Rounds begun ahead, blocks that were asked again, parts of interrupted commits, the checkpoint,
    and what a superseded driver wrote. Reads the manifests only of rounds that have something
    twice.
    """
    stats, instances = run.stats(), run.instances()
    if not (stats and instances):
        return []  # not finished, or damaged
    rounds: dict[int, list[str]] = {}
    for key in run.objects.list("bootstrap/"):
        if (round_ := round_of(key)) is not None:
            rounds.setdefault(round_, []).append(key)
    found = []
    for round_, keys in sorted(rounds.items()):
        if round_ >= stats["rounds"]:
            found += keys
        elif len(set(map(unfenced, keys))) < len(keys) and (m := run.round_manifest(round_)):
            named = {part["key"] for part in m["objects"]}
            manifest_key = f"{round_folder(round_)}/manifest.json"
            found += [key for key in keys if key not in named and key != manifest_key]
    found += _of_instances(run, instances, run.objects.list("instances/"))
    shards = {part["key"] for part in stats["shards"]}
    found += [key for key in run.objects.list("data/train-") if key not in shards]
    found += run.objects.list(FOLDER)
    return found + [key for key in run.objects.list(LIVE) if key == LIVE]


def is_clean(run: Run) -> bool:
    """Whether `clean_up` would find nothing, in a finished run."""
    return not strays(run) and next(iter(run.objects.temporaries()), None) is None


def clean_up(run: Run) -> None:
    """Delete `strays`, and what interrupted writes have left. Raises LeaseLostError."""
    run.lease.check()
    for key in strays(run):
        run.objects.delete(key)
    run.objects.sweep()


def _of_instances(run: Run, manifest: Manifest, keys: Iterable[str]) -> list[str]:
    named = {info.key for info in instance_objects(run, manifest)} | {"instances/manifest.json"}
    named |= {part["key"] for part in manifest.get("parts", ())}
    return [key for key in keys if key not in named]
