"""Where a run stands, from a few of its objects however large it is; no Ray, and nothing written.

A finished run says it in ``stats.json``, one that is being built in its checkpoint and in
``live.json``, which the last driver left; only where these lack something are rounds or blocks
read one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_si.run.checkpoint import read_manifests
from ray_si.run.instance_parts import (
    BlockRecord,
    Counts,
    InstanceParts,
    instance_objects,
    read_parts,
)
from ray_si.run.layout import round_folder
from ray_si.run.manifests import BySet, BySetAndKind, RoundManifest, by_set, from_by_set
from ray_si.run.run import Run
from ray_si.run.tokens import TOKEN_COLUMNS, Phase, Tokens, tokens_of
from ray_si.storage.reading import read_ahead

_NOT_SHOWN = "ended", "written", "building_s"
_RAW_TOKENS = [name for name in TOKEN_COLUMNS if not name.startswith("classification")]


def status(run: Run) -> dict[str, Any]:
    """Where a run stands; safe while it is being built.

    Keys: phase ("bootstrap", "instances", "export" or "done"), target, accepted, candidates,
    rejected (reason -> count), contaminated (as in `contaminated`), rounds, instructions_done (of
    phase 3), instances, rows (training rows written), fingerprint, spent (as in `spending`); and
    while it is being built, live: how the build is doing, as `ray_si.build.watch.Watcher.live` has
    it.
    """
    target = run.header["config"]["target_instructions"]
    stats = run.stats()
    if stats is not None and "spent" in stats:
        found = {
            "phase": "done",
            "target": target,
            **{name: stats[name] for name in ("accepted", "candidates", "rejected")},
            "contaminated": stats["contaminated"],
            "rounds": stats["rounds"],
            "instructions_done": stats["accepted"],
            "instances": stats["rows"],
            "rows": stats["rows"],
        }
        tokens: dict[Phase, Tokens] = {
            "bootstrap": Tokens(**stats["spent"]["bootstrap"]),
            "instances": Tokens(**stats["spent"]["instances"]),
        }
        return found | _signed(run, tokens, stats["accepted"])
    rounds = read_manifests(run)
    rejected: Counter[str] = Counter()
    for manifest in rounds:
        rejected.update(manifest["rejected"])
    accepted = sum(manifest["accepted"] for manifest in rounds)
    live = None if stats else run.live()
    written = written_so_far(run, accepted, live)
    shown = {name: value for name, value in (live or {}).items() if name not in _NOT_SHOWN}
    phase = "bootstrap"
    if stats:
        phase = "done"
    elif run.instances():
        phase = "export"
    elif accepted >= target or (live and live["phase"] == "instances"):
        phase = "instances"  # there may be blocks before: see InstancePhase.begin
    found = {
        "phase": phase,
        "target": target,
        "accepted": accepted,
        "candidates": sum(manifest["candidates"] for manifest in rounds),
        "rejected": dict(sorted(rejected.items())),
        "contaminated": contaminated(run, rounds, written.contaminated),
        "rounds": len(rounds),
        "instructions_done": written.instructions,
        "instances": written.instances,
        "rows": stats["rows"] if stats else 0,
        **({"live": shown} if live and not live.get("ended") else {}),
    }
    by_phase: dict[Phase, Tokens] = {
        "bootstrap": _of_rounds(run, rounds),
        "instances": written.tokens,
    }
    return found | _signed(run, by_phase, accepted)


def contaminated(run: Run, rounds: Sequence[RoundManifest], instances: BySetAndKind) -> BySet:
    """How many instructions and ``instances`` came too close to each evaluation set.

    Kinds of which there are none are left out, but for the first two.
    """
    counts = Counter(instances)
    for manifest in rounds:
        counts.update(from_by_set(manifest.get("contaminated", {}), "instructions"))
    by_source = by_set(counts)
    named = [one["name"] for one in run.header.get("decontaminate", [])]
    return {
        name: {"instructions": 0, "instances": 0} | by_source.get(name, {})
        for name in dict.fromkeys([*named, *by_source])
    }


def spent(run: Run) -> dict[Phase, Tokens]:
    """Tokens of every request whose answer is stored: committed rounds, and finished blocks.

    What was asked and lost (requests in flight when a driver died, blocks that are written again
    because a request of theirs failed) is not known.
    """
    rounds = read_manifests(run)
    accepted = sum(manifest["accepted"] for manifest in rounds)
    return {
        "bootstrap": _of_rounds(run, rounds),
        "instances": written_so_far(run, accepted).tokens,
    }


def spending(run: Run, by_phase: Mapping[Phase, Tokens], accepted: int) -> dict[str, Any]:
    """What is spent, for a status.

    Keys: prompt_tokens, completion_tokens, tokens_per_accepted (both kinds; None before there is
    any), and dollars where the configuration has prices.
    """
    total = by_phase["bootstrap"] + by_phase["instances"]
    first = run.header["config"].get("generator") or {}
    generators = {"bootstrap": first}
    generators["instances"] = run.header["config"].get("instance_generator") or first
    dollars = 0.0
    for phase, tokens in by_phase.items():
        prices = generators[phase].get("prices") or {"prompt": 0.0, "completion": 0.0}
        dollars += tokens.prompt * prices["prompt"] + tokens.completion * prices["completion"]
    each = round((total.prompt + total.completion) / accepted, 1) if accepted else None
    return {
        "prompt_tokens": total.prompt,
        "completion_tokens": total.completion,
        "tokens_per_accepted": each,
        **({"dollars": round(dollars / 1e6, 4)} if dollars else {}),
    }


def written_so_far(run: Run, accepted: int, live: Mapping[str, Any] | None = None) -> Counts:
    """What the instance blocks of so many accepted instructions come to; by ``live`` if it says so.

    That may be some seconds old, and spares reading the blocks that are in no part yet.
    """
    if live and (written := live.get("written")):
        tokens = Tokens(written["prompt_tokens"], written["completion_tokens"])
        return Counts(
            instructions=written["instructions"],
            instances=written["instances"],
            tokens=tokens,
            contaminated=from_by_set(written["contaminated"], "instances"),
        )
    counts = Counts()
    keys: Iterable[str] = ()
    manifest = run.instances()
    if manifest is None:
        parts = InstanceParts(run, run.header["config"].get("instances", {}).get("block_size", 0))
        counts, keys = parts.counts, parts.unread(accepted).values()
    elif "parts" in manifest:
        for _, records in read_parts(run, (part["key"] for part in manifest["parts"])):
            for record in records:
                counts.add(record)
    else:
        keys = (info.key for info in instance_objects(run, manifest))
    for record in read_ahead(lambda key: BlockRecord.of(*run.read_stored(key)), keys):
        counts.add(record)
    return counts


def _of_rounds(run: Run, rounds: Sequence[RoundManifest]) -> Tokens:
    """Tokens of committed rounds, and of the blocks of those that are not committed yet."""
    tokens = Tokens()
    for manifest in rounds:
        tokens += Tokens(manifest["prompt_tokens"], manifest["completion_tokens"])
    lookahead = run.header["config"].get("bootstrap", {}).get("lookahead", 0)
    ahead = range(len(rounds), len(rounds) + lookahead + 1)
    keys = [key for r in ahead for key in run.finished_blocks(round_folder(r)).values()]
    for table in read_ahead(lambda key: run.read(key, _RAW_TOKENS), keys):
        tokens += tokens_of(table)
    return tokens


def _signed(run: Run, by_phase: Mapping[Phase, Tokens], accepted: int) -> dict[str, Any]:
    """What closes every status."""
    fingerprint = run.header["fingerprint"]
    return {"fingerprint": fingerprint, "spent": spending(run, by_phase, accepted)}
