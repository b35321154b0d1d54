"""Phase 4: training rows out of the instance blocks, as the run's own shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from typing import Any, cast

import pyarrow as pa

from ray_si.errors import RunError
from ray_si.export.kept import Kept, chosen_answers, kept_rows
from ray_si.run.ids import answer_seed, training_row_id
from ray_si.run.instance_parts import read_blocks
from ray_si.run.manifests import (
    BySetAndKind,
    Stats,
    StoredObject,
    count_contaminated,
    stored_object,
)
from ray_si.run.run import Run
from ray_si.run.schemas import (
    ANSWERED,
    REASONING,
    TRAINING_ROWS,
    AcceptedRow,
    AnswerRow,
    InstanceRow,
    InstanceText,
    TrainingRow,
)
from ray_si.run.status import contaminated
from ray_si.run.tokens import Tokens, tokens_of
from ray_si.self_instruct.thoughts import split_thoughts

_ACCEPTED = [
    "id", "round", "demonstrations", "model", "revision", "request_seed",
    "most_similar", "mean_rouge", "cosine",
]  # fmt: skip
"""Columns of accepted rows that training rows take over."""


def training_rows(run: Run) -> Iterator[TrainingRow]:
    """The training rows in pool order; RunError where blocks and instructions do not agree.

    Those that ``output.keep`` leaves out are no training rows.
    """
    return _training_rows(run, kept_rows(run))


def _training_rows(run: Run, kept: Kept | None) -> Iterator[TrainingRow]:
    accepted: Iterator[AcceptedRow] = (
        row for table in run.accepted(_ACCEPTED) for row in table.to_pylist()
    )
    decided: Iterator[InstanceRow] = (
        row for block in read_blocks(run) for row in block.to_pylist()
    )
    thought_of, in_steps = _thoughts(run), _is_in_steps(run)
    for place, (source, row) in enumerate(zip_longest(accepted, decided)):
        if source is None or row is None or source["id"] != row["id"]:
            raise RunError(
                f"{run.location} is damaged: instance blocks and accepted instructions disagree "
                f"at {(source or row)['id']}"
            )
        chosen = chosen_answers(run, row)
        is_row = kept.of(place) if kept else None
        for k, instance in enumerate(row["instances"]):
            if is_row is not None and not is_row[k]:
                continue
            made = _training_row(source, row, k, instance)
            if in_steps:
                made |= _answered(row, chosen[k] if chosen else None)
            if thought_of:
                made["reasoning"] = thought_of((chosen[k] if chosen else row)["text"])
            yield made


def _is_in_steps(run: Run) -> bool:
    return bool(run.header["config"].get("instances", {}).get("method") == "steps")


def _answered(row: InstanceRow, chosen: AnswerRow | None) -> TrainingRow:
    """The columns that tell of the answer that was chosen; none came along with its instruction."""
    made: Any = {"answer": 0, "output_logprob": None}
    if chosen:
        place, answer = chosen["place"], chosen["answer"]
        seed = answer_seed(row["seed"], place, answer)
        made |= {"answer": answer, "output_logprob": chosen["mean_logprob"], "instance_seed": seed}
    return cast(TrainingRow, made)


def _thoughts(run: Run) -> Callable[[str], str | None] | None:
    """What tells the thought of a completion; None where the run keeps none."""
    options = run.header["config"].get("reasoning", {})
    if not options.get("keep"):
        return None
    tags = [tag if isinstance(tag, str) else (tag[0], tag[1]) for tag in options["tags"]]
    return lambda text: split_thoughts(text, tags).thought or None


def _training_row(
    source: AcceptedRow, row: InstanceRow, place: int, instance: InstanceText
) -> TrainingRow:
    return {
        "id": training_row_id(row["id"], place),
        "instruction": row["instruction"],
        "input": instance["input"],
        "output": instance["output"],
        "is_classification": row["is_classification"],
        "instruction_id": row["id"],
        "round": source["round"],
        "demonstrations": source["demonstrations"],
        "model": source["model"],
        "revision": source["revision"],
        "request_seed": source["request_seed"],
        "instance_seed": row["seed"],
        "most_similar": source["most_similar"],
        "mean_rouge": source["mean_rouge"],
        "cosine": source["cosine"],
    }


def export_data(
    run: Run,
    format_: str,
    rows_per_shard: int,
    document: Callable[[Stats], dict[str, bytes]] = lambda stats: {},
) -> Stats:
    """Write the shards, the documents, then stats.json; returns what it says.

    ``document`` makes README.md and report.html, by name, from what stats.json will say of the
    rest. The same run gives the same bytes, so being interrupted costs only the repetition.
    """
    manifest = run.instances()
    assert manifest is not None, "the instance phase is not complete"
    kept = kept_rows(run)
    expected = kept.rows if kept else manifest["instances"]
    count = -(-expected // rows_per_shard)
    shards: list[StoredObject] = []
    rows = 0
    for index, table in enumerate(shard_tables(run, rows_per_shard, kept)):
        rows += table.num_rows
        for suffix in suffixes(format_):
            shards.append(stored_object(run.write_shard(index, count, suffix, table)))
    assert rows == expected, "there are other rows than the manifest says"
    stats = recount(run, rows, kept)
    stats["shards"] = shards
    stats["documents"] = [
        stored_object(run.publish(name, data)) for name, data in document(stats).items()
    ]
    run.commit_stats(stats)
    return stats


def suffixes(format_: str) -> tuple[str, ...]:
    """Suffixes of the shards that ``output.format`` asks for."""
    return ("parquet", "jsonl") if format_ == "both" else (format_,)


def shard_tables(run: Run, rows_per_shard: int, kept: Kept | None) -> Iterator[pa.Table]:
    """`training_rows` as the tables that the shards hold, in order; ``kept`` is `kept_rows`.

    They are of `TRAINING_ROWS`, with `ANSWERED` where instances were asked in steps, and
    `REASONING` where the run keeps thoughts.
    """
    rows, schema = _training_rows(run, kept), schema_of_rows(run)
    while part := list(islice(rows, rows_per_shard)):
        yield pa.Table.from_pylist(part, schema)


def schema_of_rows(run: Run) -> pa.Schema:
    """The Arrow schema of a run's training rows."""
    further = (ANSWERED if _is_in_steps(run) else []) + ([REASONING] if _thoughts(run) else [])
    return pa.schema([*TRAINING_ROWS, *further])


def recount(run: Run, rows: int, kept: Kept | None) -> Stats:
    """The counts of stats.json, from manifests and instance blocks; ``rows`` are training rows.

    ``kept`` is the run's `kept_rows`.
    """
    manifests = run.rounds()
    rejected: Counter[str] = Counter()
    for manifest in manifests:
        rejected.update(manifest["rejected"])
    instances_rejected: Counter[str] = Counter()
    of_sets: BySetAndKind = Counter()
    spent = Tokens()
    classification = with_instance = instructions = tokens = 0
    for block in read_blocks(run):
        spent += tokens_of(block)
        block_rows: list[InstanceRow] = block.to_pylist()
        for row in block_rows:
            is_row = kept.of(instructions) if kept else row["instances"]
            instructions += 1
            classification += row["is_classification"]
            with_instance += any(is_row)
            tokens += row["completion_tokens"]
            instances_rejected.update(item["reason"] for item in row["rejected"])
            of_sets.update(count_contaminated(row["rejected"], "instances"))
    stats: Stats = {
        "rounds": len(manifests),
        "requests": sum(manifest["requests"] for manifest in manifests),
        "candidates": sum(manifest["candidates"] for manifest in manifests),
        "accepted": instructions,
        "rejected": dict(sorted(rejected.items())),
        "classification": classification,
        "with_instance": with_instance,
        "rows": rows,
        "instances_rejected": dict(sorted(instances_rejected.items())),
        "contaminated": contaminated(run, manifests, of_sets),
        "bootstrap_tokens": sum(manifest["completion_tokens"] for manifest in manifests),
        "instance_tokens": tokens,
        "spent": {
            "bootstrap": {
                "prompt": sum(manifest.get("prompt_tokens", 0) for manifest in manifests),
                "completion": sum(manifest["completion_tokens"] for manifest in manifests),
            },
            "instances": {"prompt": int(spent.prompt), "completion": int(spent.completion)},
        },
    }
    if kept:
        stats["left_out"] = kept.left_out
    return stats
