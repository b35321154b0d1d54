"""Phase 4: training rows out of the instance blocks, as the run's own shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice, zip_longest
from typing import Any

import pyarrow as pa

from ray_si.errors import RunError
from ray_si.run.run import Run
from ray_si.storage.tables import put_document

MOST_SIMILAR = pa.list_(pa.struct([("instruction", pa.string()), ("rouge", pa.float64())]))

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("is_classification", pa.bool_()),
        ("instruction_id", pa.string()),
        ("round", pa.int64()),
        ("demonstrations", pa.list_(pa.string())),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("request_seed", pa.int64()),
        ("instance_seed", pa.int64()),
        ("most_similar", MOST_SIMILAR),
        ("mean_rouge", pa.float64()),
        ("cosine", pa.float64()),
    ]
)
"""A training row: the instance, and where it came from.

``cosine`` is the instruction's highest cosine similarity with any earlier one; ``most_similar`` its
nearest earlier instructions by ROUGE-L F, nearest first, and ``mean_rouge`` the mean over all of
them, where the configuration asks for these.
"""

_PROVENANCE = (
    "round", "demonstrations", "model", "revision", "request_seed",
    "most_similar", "mean_rouge", "cosine",
)  # fmt: skip


def training_rows(run: Run) -> Iterator[dict[str, Any]]:
    """The rows of `ROWS` in pool order; RunError where blocks and instructions do not agree."""
    columns = ["id", *_PROVENANCE]
    accepted = (row for table in run.accepted(columns) for row in table.to_pylist())
    written = (row for block in run.instance_blocks() for row in block.to_pylist())
    for source, row in zip_longest(accepted, written):
        if source is None or row is None or source["id"] != row["id"]:
            raise RunError(
                f"{run.location} is damaged: instance blocks and accepted instructions disagree "
                f"at {(source or row)['id']}"
            )
        for k, instance in enumerate(row["instances"]):
            yield {
                "id": f"{row['id']}-{k}",
                "instruction": row["instruction"],
                "input": instance["input"],
                "output": instance["output"],
                "is_classification": row["is_classification"],
                "instruction_id": row["id"],
                "instance_seed": row["seed"],
                **{name: source[name] for name in _PROVENANCE},
            }


def export_data(
    run: Run,
    format_: str,
    rows_per_shard: int,
    document: Callable[[dict[str, Any]], dict[str, bytes]] = lambda stats: {},
) -> dict[str, Any]:
    """Write the shards, the documents, then stats.json; returns what it says.

    ``document`` makes README.md and report.html, by name, from what stats.json will say of the
    rest. The same run gives the same bytes, so being interrupted costs only the repetition.
    """
    manifest = run.instances()
    assert manifest is not None, "the instance phase is not complete"
    count = -(-manifest["instances"] // rows_per_shard)
    shards = []
    rows = 0
    for index, table in enumerate(shard_tables(run, rows_per_shard)):
        rows += table.num_rows
        for suffix in suffixes(format_):
            shards.append(asdict(run.write_shard(index, count, suffix, table)))
    assert rows == manifest["instances"], "there are other rows than the manifest says"
    stats = recount(run, rows) | {"shards": shards}
    documents = document(stats)
    stats["documents"] = [
        asdict(put_document(run.objects, name, data)) for name, data in documents.items()
    ]
    run.commit_stats(stats)
    return stats


def suffixes(format_: str) -> tuple[str, ...]:
    """Suffixes of the shards that ``output.format`` asks for."""
    return ("parquet", "jsonl") if format_ == "both" else (format_,)


def shard_tables(run: Run, rows_per_shard: int) -> Iterator[pa.Table]:
    """`training_rows` as the tables of `ROWS` that the shards hold, in order."""
    rows = training_rows(run)
    while part := list(islice(rows, rows_per_shard)):
        yield pa.Table.from_pylist(part, ROWS)


def recount(run: Run, rows: int) -> dict[str, Any]:
    """The counts of stats.json, from manifests and instance blocks; ``rows`` are training rows."""
    manifests = run.rounds()
    rejected: Counter[str] = Counter()
    for manifest in manifests:
        rejected.update(manifest["rejected"])
    instances_rejected: Counter[str] = Counter()
    contaminated: list[dict[str, Any]] = []
    classification = with_instance = instructions = tokens = 0
    for block in run.instance_blocks():
        for row in block.to_pylist():
            instructions += 1
            classification += row["is_classification"]
            with_instance += bool(row["instances"])
            tokens += row["completion_tokens"]
            instances_rejected.update(item["reason"] for item in row["rejected"])
            contaminated += [i for i in row["rejected"] if i["reason"] == "contaminated"]
    return {
        "rounds": len(manifests),
        "requests": sum(manifest["requests"] for manifest in manifests),
        "candidates": sum(manifest["candidates"] for manifest in manifests),
        "accepted": instructions,
        "rejected": dict(sorted(rejected.items())),
        "classification": classification,
        "with_instance": with_instance,
        "rows": rows,
        "instances_rejected": dict(sorted(instances_rejected.items())),
        "contaminated": run.contaminated(manifests, contaminated),
        "bootstrap_tokens": sum(manifest["completion_tokens"] for manifest in manifests),
        "instance_tokens": tokens,
    }
